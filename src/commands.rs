//! One file a command: reads the configuration, calls what is below, prints.
