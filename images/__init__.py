"""Images: sets in memory and in files, reading one file, folders, lists, downloads."""
