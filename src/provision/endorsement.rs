//! Is this endorsement key genuine: template, certificate, chain, credential challenge.
pub mod credential;
pub mod template;
