"""Sets of emotions, by the name of who proposed them."""

EMOTIONS = ('amusement', 'awe', 'contentment', 'excitement', 'anger', 'disgust', 'fear', 'sadness')
"""Mikels' eight emotions in EmoSet's order: the label table of EmoSet, Emo8 and FI."""
EMOTIC = (
    'Affection', 'Anger', 'Annoyance', 'Anticipation', 'Aversion', 'Confidence', 'Disapproval', 'Disconnection',
    'Disquietment', 'Doubt/Confusion', 'Embarrassment', 'Engagement', 'Esteem', 'Excitement', 'Fatigue', 'Fear',
    'Happiness', 'Pain', 'Peace', 'Pleasure', 'Sadness', 'Sensitivity', 'Suffering', 'Surprise', 'Sympathy', 'Yearning'
)  # fmt: skip
NAMED_LABELS = {
    'mikels': EMOTIONS, 'ekman': ('anger', 'disgust', 'fear', 'joy', 'sadness', 'surprise'), 'emotic': EMOTIC}
"""The sets by name; Ekman's are in the words of Emotion6."""
VAD = ('valence', 'arousal', 'dominance')
