//! `station.toml` parsed into `Config`: a bad key is named, a bad value explained with the line it stands on.
