//! Who owns which KV page: tables, reference counts, the tree of prefixes.
