"""From data as people have them to a data set: recognised, read row by row, checked, written, told."""
