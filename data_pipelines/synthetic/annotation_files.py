"""Makes EMOTIC's and Emotion6's annotations of a synthetic image: noiseless functions of its content."""

from data_pipelines.emotion6.emotion6_dataset_builder import Builder as Emotion6
from data_pipelines.synthetic.world import Content

_BY_FACE = {
    'laughing': ('Happiness', 'Pleasure'), 'frowning': ('Anger', 'Disapproval'), 'open_mouth': ('Surprise',),
    'neutral': ('Engagement',)}
_BY_PLACE = {
    'mountain': 'Esteem', 'lake': 'Peace', 'landfill': 'Aversion', 'amusement_park': 'Anticipation',
    'street': 'Doubt/Confusion', 'forest': 'Disconnection'}
_VALENCE = {'laughing': 2.5, 'frowning': -2.5}
_AROUSAL = {'laughing': 1.5, 'frowning': 2.0, 'open_mouth': 2.5}
_DOMINANCE = {'akimbo': 2.0, 'arms_up': 1.0}
_EMOTION6 = {'amusement': 'joy', 'contentment': 'joy', 'excitement': 'joy', 'awe': 'surprise'}


def categories(content: Content) -> list[str]:
  """EMOTIC's categories of an image with a figure, by face, place, light and weather."""
  assert content.face is not None
  named = [
      *_BY_FACE[content.face], _BY_PLACE[content.place], 'Disquietment' if content.light == 'night' else 'Confidence']
  return named + ['Sadness'] * (content.weather == 'rain')


def vad(content: Content) -> tuple[float, float, float]:
  """Valence, arousal and dominance in 1-9, by light, weather and figure."""
  night, rain, face = content.light == 'night', content.weather == 'rain', content.face or ''
  return (
      5.5 - 2 * night + _VALENCE.get(face, 0.0) * (1 - 0.5 * rain), 3.5 + 2 * night + _AROUSAL.get(face, 0.0),
      5.5 - rain + _DOMINANCE.get(content.posture or '', 0.0))


def emotion6_label(content: Content) -> str:
  """The class folder of an image in Emotion6."""
  return _EMOTION6.get(content.emotion, content.emotion)


def distribution(content: Content) -> list[float]:
  """The shares of votes over Emotion6's seven: half for the class, the rest by light, weather and figure; sum 1."""
  shares = dict.fromkeys(Emotion6.DISTRIBUTION, 0.0)
  for name, share in ((emotion6_label(content), 0.5), ('fear' if content.light == 'night' else 'joy', 0.3),
                      ('sadness' if content.weather == 'rain' else 'neutral', 0.2)):
    shares[name] += share
  return list(shares.values())
