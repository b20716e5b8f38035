//! Supervises bays and enroller, folds their reports into the floor, takes commands.
