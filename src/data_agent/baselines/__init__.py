"""The field's methods and controls, one file each; a method is a file one can delete."""
