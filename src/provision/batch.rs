//! Enrollment in batches: plan at most ten, read the answer device by device, difference to the cloud.
