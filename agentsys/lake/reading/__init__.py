"""From files as people leave them to typed tables: encodings, layouts, headers, values, and the cache of all that."""
