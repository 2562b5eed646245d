//! A request as the handler of its path sees it, and what handlers share.

use hyper::header::HeaderMap;

use super::Connection;
use super::answer::Reply;

/// A request, as its handler sees it.
pub(super) struct Call<'a> {
    /// The connection of the request.
    pub connection: &'a Connection,
    /// The query after the question mark; empty without one.
    pub query: &'a str,
    /// The request's headers.
    pub headers: &'a HeaderMap,
    /// `HEAD`: only the answer's head is wanted.
    pub head_only: bool,
}

/// The one number that a query may hold: `Ok(None)` when the query is empty, an error for anything but `name=number`.
pub(super) fn number<T: std::str::FromStr>(query: &str, name: &str) -> Result<Option<T>, String> {
    if query.is_empty() {
        return Ok(None);
    }
    let value = query.strip_prefix(name).and_then(|rest| rest.strip_prefix('='));
    match value.filter(|digits| digits.bytes().all(|digit| digit.is_ascii_digit())).map(str::parse) {
        Some(Ok(number)) => Ok(Some(number)),
        _ => Err(format!("cannot read ?{query}: say ?{name}=NUMBER")),
    }
}

/// An empty body for `HEAD` where the whole one would never end.
pub(super) fn no_body() -> Reply {
    Reply::whole("")
}
