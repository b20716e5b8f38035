//! Is this endorsement key genuine: template, certificate, chain, credential challenge.
