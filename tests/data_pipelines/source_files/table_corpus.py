"""One file for each way in which programs save a table or a list: what can be read, and what cannot, and why."""

import unicodedata

IMAGES = ('train/calm/000.jpg', 'train/Übermut/a b.jpg')
HEADINGS = 'image,xmin,ymin,xmax,ymax,score'
BOXES = {IMAGES[0]: [[0, 0, 10, 20, 0.9], [1.5, 2.5, 8, 9, 0.5]], IMAGES[1]: [[1, 2, 30, 40, 1]]}
"""What every table of boxes here says."""

_ROWS = [(image, *box) for image, boxes in BOXES.items() for box in boxes]
_TABLE = '\n'.join([HEADINGS, *(','.join(map(str, row)) for row in _ROWS)]) + '\n'
_SEMICOLONS = _TABLE.replace(',', ';').replace('.5', ',5').replace('.9', ',9')
_UTF16 = _TABLE.encode('utf-16-le')


def _named(change) -> bytes:
  """The table with the names of images changed."""
  text = _TABLE
  for image in IMAGES:
    text = text.replace(image, change(image))
  return text.encode()


def read_tables(folder: str) -> dict[str, bytes]:
  """Tables that say what BOXES says, of images in `folder`."""
  other_order = [f'{score},note,{image},{xmin},{ymin},{xmax},{ymax}' for image, xmin, ymin, xmax, ymax, score in _ROWS]
  return {
      'plain': _TABLE.encode(), 'UTF-8 with a mark': _TABLE.encode('utf-8-sig'), 'UTF-16': b'\xff\xfe' + _UTF16,
      'UTF-16, big-endian': b'\xfe\xff' + _TABLE.encode('utf-16-be'), 'UTF-16 without a mark': _UTF16,
      'UTF-16, big-endian, without a mark': _TABLE.encode('utf-16-be'), 'UTF-32': _TABLE.encode('utf-32'),
      'Windows line ends': _TABLE.replace('\n',
                                          '\r\n').encode(), 'old Mac line ends': _TABLE.replace('\n', '\r').encode(),
      'no line end at the end': _TABLE.rstrip().encode(), 'semicolons and decimal commas': _SEMICOLONS.encode(),
      'tabs': _TABLE.replace(',', '\t').encode(), 'bars': _TABLE.replace(',', '|').encode(),
      "Excel's hint": b'sep=;\r\n' + _SEMICOLONS.encode(), 'empty lines': _TABLE.replace('\n', '\n\n').encode(),
      'empty lines before': b'\n\n' + _TABLE.encode(), 'rows of empty cells': _TABLE.encode() + b',,,,,\n , ,,,,\n',
      'a column more': '\n'.join(['score,remark,image,xmin,ymin,xmax,ymax', *other_order]).encode(),
      'headings in upper case': _TABLE.replace(HEADINGS, HEADINGS.upper()).encode(), 'headings with spaces':
          _TABLE.replace(HEADINGS, ' image , x_min, y_min, X max, Y-max, score ').encode(), 'quoted cells':
              '\n'.join(['"' + line.replace(',', '","') + '"' for line in _TABLE.splitlines()]).encode(), 'backslashes':
                  _named(lambda name: name.replace('/', '\\')), 'dot and slash': _named(lambda name: f'./{name}'),
      'dot and backslash': _named(lambda name: '.\\' + name.replace('/', '\\')), 'doubled slashes':
          _named(lambda name: name.replace('/', '//')), 'a way round':
              _named(lambda name: name.replace('train/', 'train/calm/../')), 'absolute':
                  _named(lambda name: f'{folder}/{name}'), 'decomposed letters':
                      _named(lambda name: unicodedata.normalize('NFD', name)), 'other case': _named(str.upper),
      'spaces around names': _named(lambda name: f' {name} ')}  # fmt: skip


def refused_tables() -> dict[str, tuple[bytes, str]]:
  """Tables that are refused, and a part of the one line."""
  row = f'{HEADINGS}\n{IMAGES[0]},'
  return {
      'empty': (b'', "lacks column 'image'"), 'nothing but line ends': (b'\n\r\n', "lacks column 'image'"),
      'a mark and nothing': (b'\xff\xfe', "lacks column 'image'"),
      'no headings': (_TABLE.partition('\n')[2].encode(), "lacks column 'image'"), 'a column less':
          (_TABLE.replace(',score', ',probability').encode(), "lacks column 'score'"), 'a column twice':
              (_TABLE.replace(',score', ',score,Score').encode(), "two columns 'score'"), 'a short row':
                  (f'{row}0,0,9\n'.encode(), 'line 2 is too short'), 'a word for a number':
                      (f'{row}0,0,9,nine,1\n'.encode(), 'line 2 is not an image and five numbers'), 'not finite':
                          (f'{row}0,0,9,nan,1\n'.encode(), 'line 2 is not an image and five numbers'), 'endless':
                              (f'{row}0,0,9,inf,1\n'.encode(), 'line 2 is not an image and five numbers'),
      'an empty cell': (f'{row}0,0,,9,1\n'.encode(), 'line 2 is not an image and five numbers'), 'no name':
          (f'{HEADINGS}\n ,0,0,9,9,1\n'.encode(), 'line 2 is not an image and five numbers'), 'zero bytes':
              (_TABLE.encode() + bytes(64), 'zero bytes.*save it as CSV in UTF-8'), 'Latin-1':
                  (_TABLE.encode('latin-1'), 'is not in UTF-8, first in line 4, .*Latin-1: save it as CSV in UTF-8'),
      'half a letter': (b'\xff\xfe' + _UTF16[:-1], 'UnicodeDecodeError.*save it as CSV in UTF-8'), 'an image':
          (b'\x89PNG\r\n\x1a\n\0\0\0\rIHDR', 'save it as CSV in UTF-8'), 'of other images':
              (_named(lambda name: f'else/{name[:-4]}_2.jpg'), "names no image that is here: it says 'else/train")}


def read_lists() -> dict[str, bytes]:
  """Lists that name IMAGES, from the folder that holds them."""
  text = '\n'.join(IMAGES) + '\n'
  return {
      'plain': text.encode(), 'UTF-8 with a mark': text.encode('utf-8-sig'), 'UTF-16': text.encode('utf-16'),
      'UTF-16, big-endian': b'\xfe\xff' + text.encode('utf-16-be'), 'UTF-16 without a mark': text.encode('utf-16-le'),
      'Windows line ends': text.replace('\n', '\r\n').encode(), 'old Mac line ends': text.replace('\n', '\r').encode(),
      'empty lines': text.replace('\n', '\n \n').encode(), 'backslashes': text.replace('/', '\\').encode(),
      'dot and slash': ''.join(f'./{name}\n' for name in IMAGES).encode(),
      'decomposed letters': unicodedata.normalize('NFD', text).encode(), 'other case': text.upper().encode(),
      'in quotes': ''.join(f'"{name}"\n' for name in IMAGES).encode(), 'twice': 2 * text.encode()}  # fmt: skip


def refused_lists() -> dict[str, tuple[bytes, str]]:
  """Lists that are refused, and a part of the one line."""
  return {
      'empty': (b'', 'no images in'), 'zero bytes': (IMAGES[0].encode() + b'\0\n', 'zero bytes.*one path a line'),
      'half a letter': (b'\xff\xfea', 'UnicodeDecodeError.*one path a line')}
