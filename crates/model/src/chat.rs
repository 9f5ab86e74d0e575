//! Chat templates: the file's own Jinja, bounded in time and memory.
