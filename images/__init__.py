"""Images in folders and files: listing, decoding, downloading."""
