//! Bytes of the operating system in a JSON document.

use std::ffi::{CString, OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// Bytes that are mostly text: a JSON string where they are UTF-8, else an array of numbers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Bytes {
    /// Valid UTF-8.
    Text(String),
    /// All other bytes.
    Raw(Vec<u8>),
}

impl Default for Bytes {
    fn default() -> Self {
        Bytes::Text(String::new())
    }
}

impl Bytes {
    /// Returns the bytes.
    pub fn into_vec(self) -> Vec<u8> {
        match self {
            Bytes::Text(text) => text.into_bytes(),
            Bytes::Raw(bytes) => bytes,
        }
    }

    /// Returns the bytes as a path.
    pub fn into_path(self) -> PathBuf {
        OsString::from_vec(self.into_vec()).into()
    }

    /// Returns the bytes as a string for execve(2).
    ///
    /// # Errors
    /// The bytes contain a NUL.
    pub fn into_c_string(self) -> Result<CString, String> {
        CString::new(self.into_vec()).map_err(|error| format!("a NUL in {:?}", String::from_utf8_lossy(&error.into_vec())))
    }
}

impl From<&[u8]> for Bytes {
    fn from(bytes: &[u8]) -> Bytes {
        std::str::from_utf8(bytes).map_or_else(|_| Bytes::Raw(bytes.to_vec()), |text| Bytes::Text(text.to_owned()))
    }
}

impl From<&OsStr> for Bytes {
    fn from(text: &OsStr) -> Bytes {
        text.as_bytes().into()
    }
}

impl From<&Path> for Bytes {
    fn from(path: &Path) -> Bytes {
        path.as_os_str().into()
    }
}
