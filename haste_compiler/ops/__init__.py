"""The custom operators that belong to no method: a file each, with schema, eager reference, fake and a typed view."""
