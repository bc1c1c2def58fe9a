"""The verb `app`: a page on which anyone tries a model on images of their own."""
