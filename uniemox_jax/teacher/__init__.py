"""The frozen CLIP and the texts that it embeds."""
