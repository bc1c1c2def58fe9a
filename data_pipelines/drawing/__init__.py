"""Pages of HTML and sheets of images: how the reports of both packages look."""
