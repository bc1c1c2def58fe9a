"""Images and videos as they lie, without records: found in folders, archives and lists, decoded, and read in order."""
