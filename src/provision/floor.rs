//! All that a screen or a report sees, folded from reports, and all it may ask.
