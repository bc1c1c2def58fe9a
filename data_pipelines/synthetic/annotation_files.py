"""What EMOTIC's and Emotion6's annotators would say of a synthetic picture: functions of what it shows, no noise."""

from data_pipelines.emotion6.emotion6_dataset_builder import Builder as Emotion6
from data_pipelines.synthetic.world import Look

_BY_FACE = {
    'laughing': ('Happiness', 'Pleasure'), 'frowning': ('Anger', 'Disapproval'), 'open_mouth': ('Surprise',),
    'neutral': ('Engagement',)
}
_BY_PLACE = {
    'mountain': 'Esteem', 'lake': 'Peace', 'landfill': 'Aversion', 'amusement_park': 'Anticipation',
    'street': 'Doubt/Confusion', 'forest': 'Disconnection'
}
_VALENCE = {'laughing': 2.5, 'frowning': -2.5}
_AROUSAL = {'laughing': 1.5, 'frowning': 2.0, 'open_mouth': 2.5}
_DOMINANCE = {'akimbo': 2.0, 'arms_up': 1.0}
_EMOTION6 = {'amusement': 'joy', 'contentment': 'joy', 'excitement': 'joy', 'awe': 'surprise'}


def categories(look: Look) -> list[str]:
  """EMOTIC's categories of a picture with a figure: of face, place, light and weather."""
  named = [*_BY_FACE[look.face], _BY_PLACE[look.place], 'Disquietment' if look.light == 'night' else 'Confidence']
  return named + ['Sadness'] * (look.weather == 'rain')


def vad(look: Look) -> tuple[float, float, float]:
  """Valence, arousal and dominance in 1-9: of light and weather, and of the figure where there is one."""
  night, rain = look.light == 'night', look.weather == 'rain'
  return (
      5.5 - 2 * night + _VALENCE.get(look.face, 0.0) * (1 - 0.5 * rain), 3.5 + 2 * night + _AROUSAL.get(look.face, 0.0),
      5.5 - rain + _DOMINANCE.get(look.posture, 0.0))


def emotion6_label(look: Look) -> str:
  """The class folder in Emotion6."""
  return _EMOTION6.get(look.emotion, look.emotion)


def distribution(look: Look) -> list[float]:
  """Shares of votes over Emotion6's seven: half for the class, the rest by light, weather and figure; sums to 1."""
  shares = dict.fromkeys(Emotion6.DISTRIBUTION, 0.0)
  for name, share in ((emotion6_label(look), 0.5), ('fear' if look.light == 'night' else 'joy', 0.3),
                      ('sadness' if look.weather == 'rain' else 'neutral', 0.2)):
    shares[name] += share
  return list(shares.values())
