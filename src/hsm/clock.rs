//! A token's information without its clock, for tokens that do not write the time as PKCS #11 wants it.
//!
//! `cryptoki` refuses all that such a token says of itself, and opencryptoki's tokens (IBM's HSMs) say `"        11:37:45"`.
//! The label and the flags of the PIN are needed before logging in, so this asks the module itself.

#![allow(unsafe_code)]

use cryptoki_sys::{CK_TOKEN_INFO, CKF_CLOCK_ON_TOKEN, CKR_OK, Pkcs11};
use pkcs11::slot::{Slot, TokenInfo};
use std::path::Path;

/// What `C_GetTokenInfo` says of the token in `slot` of a module that is loaded and initialized, but for the time.
pub(super) fn without(module: &Path, slot: Slot) -> Option<TokenInfo> {
    let mut functions = std::ptr::null_mut();
    let mut info = CK_TOKEN_INFO::default();
    // SAFETY: `cryptoki` has loaded this very file as a PKCS #11 module and keeps it, so the loader gives back the same
    // library and its functions stay where they are. Both calls write only into the variables here.
    unsafe {
        let library = Pkcs11::new(module).ok()?;
        let list = library.C_GetFunctionList.as_ref().ok()?;
        if list(&mut functions) != CKR_OK {
            return None;
        }
        let ask = functions.as_ref()?.C_GetTokenInfo?;
        if ask(slot.into(), &mut info) != CKR_OK {
            return None;
        }
    }
    info.flags &= !CKF_CLOCK_ON_TOKEN;
    TokenInfo::try_from(info).ok()
}
