//! What the station is willing to sign: request policy, draft, assembly, self-check, path validation.
