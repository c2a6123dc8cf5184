"""How run_networks.py speaks of images: "1 image", "19 images; 3 other files left out (.heic)"."""

from images.sets import ImageFiles, Images


def images_in_words(number: int) -> str:
    """ "1 image", "1,797 images"."""
    return "1 image" if number == 1 else f"{number:,} images"


def counted(images: Images | ImageFiles, where: str = "") -> str:
    """How many images there are, `where`, and what lies beside them."""
    text = images_in_words(len(images)) + where
    return f"{text}; {images.left_out}" if images.left_out else text
