'use strict';
// Images go to the server a few at a time, and each answer becomes a card. Cards, files and answers are in this tab
// alone. Texts of others (names, classes, words) are only ever textContent, or attributes that show text.

const $ = (id) => document.getElementById(id);
const AT_ONCE = 2;  // one is asked about, the next is on its way
const MOST_BARS = 8;
const RETRY_SECONDS = 2;
const WIDEST_REM = 24;
const ENDINGS = /\.(jpe?g|jfif|png|gif|webp|bmp|tiff?|avif|hei[cf]|ppm|pgm|pbm)$/i;
// Dark to bright, and readable without colours.
const HEAT = [[0, 0, 4], [87, 16, 110], [188, 55, 84], [249, 142, 9], [252, 255, 164]];
let settings = null, words = '', active = 0, round = 0;
let last = '';  // what was answered last, in words
let items = [];  // {file, name, card, answer}

function make(tag, text = '', attributes = {}, ...children) {
  const element = document.createElement(tag);
  if (text !== '') element.textContent = text;
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

function tell(text) { $('notice').textContent = text; }

const percent = (value) => `${(100 * value).toFixed(1)} %`;
const number = (value) => String(Number(value.toPrecision(3)));
const wait = (seconds) => new Promise((done) => setTimeout(done, 1000 * seconds));

async function begin() {
  for (;;) {
    try {
      settings = await (await fetch('/settings')).json();
      break;
    } catch (error) {
      tell('The server does not answer. Trying again …');
      await wait(RETRY_SECONDS);
    }
  }
  tell('');
  const asked = settings.models.find((model) => model.words !== null);
  $('models').textContent = settings.models.map((model) => model.name).join(' beside ');
  $('limits').textContent = `At most ${settings.files} images at a time, of ${settings.megabytes} MB and ` +
      `${settings.megapixels} megapixels each.`;
  $('ask').hidden = !asked;
  if (asked) $('words-hint').textContent = `Left empty, it is asked: ${asked.words}. For example: calm, lonely, tense`;
  const several = settings.models.length > 1;
  $('maps').textContent = settings.models.map((model) => (several ? `${model.name}: ` : '') + model.maps).join(' ');
  settings.models.forEach((model, place) => {
    const button = make('button', several ? `Download the table of ${model.name}` : 'Download the table',
        {type: 'button', disabled: '', class: 'download'});
    button.onclick = () => download(place);
    $('clear').before(button);
  });
  document.body.dataset.ready = 'yes';
  advance();
}

function add(files, chosen) {
  const found = [...files].filter((file) => chosen || file.type.startsWith('image/') || ENDINGS.test(file.name));
  const said = [];
  if (found.length < files.length) said.push(`${files.length - found.length} files passed over that are no images.`);
  const most = settings ? settings.files : found.length;
  if (found.length > most) said.push(`Only the first ${most} of ${found.length} images are taken: give the others then.`);
  tell(said.join(' '));
  for (const file of found.slice(0, most)) {
    const item = {file, name: file.webkitRelativePath || file.name, asked: -1, answer: null};
    item.card = make('li', '', {}, make('h3', item.name), make('p', 'waiting …', {class: 'small'}));
    $('answers').append(item.card);
    items.push(item);
  }
  $('results').hidden = !items.length;
  advance();
}

function advance() {
  report();
  while (settings && active < AT_ONCE) {
    const item = items.find((item) => item.asked !== round);
    if (!item) return;
    item.asked = round;
    active++;
    ask(item, round).finally(() => { active--; advance(); });
  }
}

async function ask(item, mine) {
  const current = () => mine === round && items.includes(item);
  const query = new URLSearchParams({name: item.name, words, bytes: item.file.size});
  let body = null;
  if (item.file.size <= settings.megabytes * 1e6) {
    try {
      body = await item.file.arrayBuffer();
    } catch (error) {
      finish(item, {error: 'this browser cannot read the file any more', models: []});
      return;
    }
  }
  while (current()) {
    let status = 0, value = null, after = RETRY_SECONDS;
    try {
      const answer = await fetch(`/answer?${query}`, {
        method: 'POST', headers: {'Content-Type': 'application/octet-stream'}, body});
      status = answer.status;
      after = Number(answer.headers.get('Retry-After')) || RETRY_SECONDS;
      value = await answer.json();
    } catch (error) {
      value = null;
    }
    if (!current()) return;
    if (status === 0 || status === 503) {
      tell(status ? 'The server is busy. Trying again …' : 'The server does not answer. Trying again …');
      await wait(after);
      continue;
    }
    if (/Trying again/.test($('notice').textContent)) tell('');
    if (status === 400 && value) tell(value.error);
    finish(item, {error: status === 200 ? undefined : 'the server failed on this image', models: [], ...value});
    return;
  }
}

function finish(item, answer) {
  item.answer = answer;
  renderCard(item);
  last = `${item.name}: ${answer.error || answer.models.map(headline).join('; ')}.`;
  report();
}

function report() {
  const done = items.filter((item) => item.answer).length;
  if (items.length) $('status').textContent = `${done} of ${items.length} answered. ${last}`;
  const ready = items.some((item) => item.answer && item.answer.models.length);
  for (const button of document.querySelectorAll('.download')) button.disabled = !ready;
}

function headline(said) {
  const group = said.groups[0];
  if (said.chosen) return said.chosen.split(';').join(', ');
  if (group) return `${group.bars[0][0]}, ${percent(group.bars[0][1])}`;
  return planeText(said);
}

function planeText(said) {
  return Object.entries(said.plane).map(([name, {value, low, high}]) =>
    `${name} ${number(value)} (${number(low)} to ${number(high)})`).join(', ');
}

function renderCard(item) {
  const answer = item.answer, title = make('h3', item.name);
  if (answer.error) {
    item.card.replaceChildren(title, make('p', `No answer: ${answer.error}`, {class: 'error'}));
    return;
  }
  const several = settings.models.length > 1;
  const columns = make('div', '', {class: 'columns'});
  settings.models.forEach((model, place) => {
    const said = answer.models[place];
    const text = make('div', '', {}, make('p', headline(said), {class: 'said'}), ...said.groups.map(renderBars));
    if (Object.keys(said.plane).length) text.append(renderPlane(said));
    if (said.closest.length) {
      text.append(make('p', 'Closest words: ' +
          said.closest.map(([word, cosine]) => `${word} ${cosine.toFixed(3)}`).join(', ')));
    }
    const section = make('section', '', {class: several ? '' : 'wide'}, renderScene(item, said, model), text);
    if (several) section.prepend(make('h4', model.name));
    columns.append(section);
  });
  item.card.replaceChildren(title, columns);
  if (answer.note) item.card.append(make('p', `One of the ${answer.note}.`, {class: 'small'}));
}

function place(element, [ymin, xmin, ymax, xmax]) {
  Object.assign(element.style, {left: `${100 * xmin}%`, top: `${100 * ymin}%`, width: `${100 * (xmax - xmin)}%`,
                                height: `${100 * (ymax - ymin)}%`});
  return element;
}

function renderScene(item, said, model) {
  const chosen = document.querySelector('input[name="overlay"]:checked').value;
  const maps = said.maps[chosen];
  const image = make('img', '', {src: item.answer.image, alt: `${item.name}: ${headline(said)}`});
  const frame = make('div', '', {class: maps ? 'frame grey' : 'frame'}, image);
  // Small images are enlarged, and high ones fit on a screen.
  frame.style.width = `min(100%, ${WIDEST_REM * Math.min(1, item.answer.width / item.answer.height)}rem)`;
  const lines = [];
  if (maps) {
    frame.append(place(heat(maps[0].levels), said.seen));
    lines.push(`${chosen === 'rollout' ? 'Attention' : 'Relevance'}: ${maps[0].where}.`);
    if (said.seen[0] > 0 || said.seen[1] > 0) lines.push('The dark margin is cut off before the model sees it.');
  } else if (chosen) {
    lines.push(`No such map: ${model.maps}`);
  }
  if (said.person) frame.append(place(make('div', '', {class: 'box'}), said.person));
  const figure = make('figure', '', {}, frame);
  if (said.person_image) {
    const person = make('div', '', {class: maps ? 'frame grey person' : 'frame person'}, make('img', '', {
      src: said.person_image, alt: `the person in ${item.name}, as the model sees them`}));
    if (maps && maps[1]) {
      person.append(place(heat(maps[1].levels), [0, 0, 1, 1]));
      lines.push(`On the person: ${maps[1].where}.`);
    }
    lines.push('The box shows the person that it looks at, too.');
    figure.append(person);
  } else if (model.sees_person) {
    lines.push('No person was found: it looks at the scene twice.');
  }
  figure.append(make('figcaption', lines.join(' ')));
  return figure;
}

function heat(levels) {
  const canvas = make('canvas', '', {'aria-hidden': 'true', width: levels[0].length, height: levels.length});
  const pixels = new ImageData(levels[0].length, levels.length);
  levels.flat().forEach((level, place) => {
    const at = level / 255 * (HEAT.length - 1), low = Math.min(Math.floor(at), HEAT.length - 2);
    const colour = HEAT[low].map((part, channel) => part + (at - low) * (HEAT[low + 1][channel] - part));
    pixels.data.set([...colour, 140], 4 * place);
  });
  canvas.getContext('2d').putImageData(pixels, 0, 0);
  return canvas;
}

function renderBars(group) {
  const rows = group.bars.map(([name, value]) => {
    const bar = make('div', '', {class: 'bar', 'aria-hidden': 'true'});
    bar.style.width = `${100 * Math.max(0, Math.min(1, value))}%`;
    return make('tr', '', {}, make('th', name, {scope: 'row'}), make('td', '', {}, bar),
        make('td', percent(value), {class: 'number'}));
  });
  const table = (some) => make('table', '', {class: 'bars'}, make('caption', group.unit), ...some);
  const shown = make('div', '', {}, table(rows.slice(0, MOST_BARS)));
  const rest = rows.slice(MOST_BARS);
  if (rest.length) shown.append(make('details', '', {}, make('summary', `${rest.length} more`), table(rest)));
  return shown;
}

function renderPlane(said) {
  const shown = make('div', '', {}), {valence, arousal} = said.plane;
  if (valence && arousal) {
    const part = (tag, attributes, text = '') => {
      const element = document.createElementNS('http://www.w3.org/2000/svg', tag);
      for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
      element.textContent = text;
      return element;
    };
    const at = ({value, low, high}) => 100 * (value - low) / (high - low || 1);
    const svg = part('svg', {viewBox: '-5 -5 110 122', class: 'plane', role: 'img',
                             'aria-label': `plane of valence and arousal: ${planeText(said)}`});
    svg.append(
        part('rect', {x: 0, y: 0, width: 100, height: 100}), part('line', {x1: 50, y1: 0, x2: 50, y2: 100}),
        part('line', {x1: 0, y1: 50, x2: 100, y2: 50}), part('text', {x: 53, y: 9}, 'excited'),
        part('text', {x: 53, y: 97}, 'calm'), part('text', {x: 0, y: 111}, 'unpleasant'),
        part('text', {x: 100, y: 111, 'text-anchor': 'end'}, 'pleasant'),
        part('circle', {cx: at(valence), cy: 100 - at(arousal), r: 4}));
    shown.append(svg);
  }
  shown.append(make('p', planeText(said), {class: 'small'}));
  return shown;
}

function download(model) {
  const tables = items.filter((item) => item.answer && item.answer.models[model]).map((item) => item.answer.models[model]);
  const text = tables[0].header + tables.map((table) => table.row).join('');
  const link = make('a', '', {
    href: URL.createObjectURL(new Blob([text], {type: 'text/csv'})),
    download: settings.models.length > 1 ? `predictions_${model + 1}.csv` : 'predictions.csv'});
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  if (tables.length < items.length) tell(`${items.length - tables.length} images are not in the table: no answer yet.`);
}

function clear() {
  items = [];
  last = '';
  $('answers').replaceChildren();
  $('results').hidden = true;
  $('files').value = $('folder').value = '';
  tell('');
  $('status').textContent = 'All images are removed.';
  $('files').focus();
}

for (const [id, chosen] of [['files', true], ['folder', false]]) {
  $(id).addEventListener('change', () => { add($(id).files, chosen); $(id).value = ''; });
}
$('clear').addEventListener('click', clear);
$('ask').addEventListener('submit', (event) => {
  event.preventDefault();
  words = $('words').value;
  round++;
  for (const item of items) item.answer = null;
  tell('');
  advance();
});
$('overlays').addEventListener('change', () => items.filter((item) => item.answer).forEach(renderCard));
document.addEventListener('dragover', (event) => { event.preventDefault(); document.body.classList.add('over'); });
document.addEventListener('dragleave', (event) => {
  if (!event.relatedTarget) document.body.classList.remove('over');
});
document.addEventListener('drop', (event) => {
  event.preventDefault();
  document.body.classList.remove('over');
  const folders = [...event.dataTransfer.items].some((item) => item.webkitGetAsEntry()?.isDirectory);
  add(event.dataTransfer.files, false);
  if (folders) tell('A folder cannot be dropped here: choose it under "All images of a folder".');
});
begin();
