//! A device's TPM, reached through tss-esapi over raw commands that travel on the device's link.
