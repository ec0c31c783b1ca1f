"""The studies that the server offers: a folder of images, and what is kept beside any of them."""
