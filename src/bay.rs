//! One bay: arrival, identification, then one effect after another until the job is done.
