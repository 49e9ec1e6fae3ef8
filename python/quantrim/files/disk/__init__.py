"""Files and folders on a disk: read in pieces, written whole or not at all."""
