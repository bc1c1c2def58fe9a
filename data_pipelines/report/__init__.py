"""The verb `report`: what a data set holds, and what is wrong with it, as a page."""
