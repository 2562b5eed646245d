//! A status document that is told to several: written out once.

use std::ops::Deref;
use std::sync::Arc;

use super::tree::Document;

/// A document and its JSON.
#[derive(Debug)]
pub struct Finished {
    document: Document,
    line: serde_json::Result<String>,
}

impl Finished {
    /// Its JSON in one line, with the line's end.
    ///
    /// # Errors
    /// serde_json could not write it.
    pub fn line(&self) -> Result<&str, &serde_json::Error> {
        self.line.as_deref()
    }
}

impl From<Document> for Finished {
    /// Writes it out; a large one takes milliseconds.
    fn from(document: Document) -> Self {
        let mut line = serde_json::to_string(&document);
        if let Ok(line) = &mut line {
            line.push('\n');
        }
        Finished { document, line }
    }
}

impl Deref for Finished {
    type Target = Document;

    fn deref(&self) -> &Document {
        &self.document
    }
}

/// The JSON of a document, shared by those who send it.
#[derive(Clone, Debug)]
pub struct Line(pub Arc<Finished>);

impl AsRef<[u8]> for Line {
    fn as_ref(&self) -> &[u8] {
        self.0.line().unwrap_or_default().as_bytes()
    }
}
