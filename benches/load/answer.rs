//! An HTTP/1.1 answer, as far as a load generator needs it: is it whole, what does it say of the connection, who sent it.

use super::count::Who;

/// A whole answer at the beginning of a buffer.
#[derive(Debug, PartialEq)]
pub struct Answer {
    pub status: u16,
    /// Its connection ends after it.
    pub close: bool,
    pub body: Vec<u8>,
    /// Bytes of the buffer that it takes.
    pub len: usize,
}

/// Looks for a whole answer; `None` when more bytes are needed. `ended`: no more will come.
pub fn parse(buffer: &[u8], ended: bool) -> Result<Option<Answer>, String> {
    let mut headers = [httparse::EMPTY_HEADER; 64];
    let mut head = httparse::Response::new(&mut headers);
    let start = match head.parse(buffer).map_err(|error| format!("not HTTP: {error}"))? {
        httparse::Status::Complete(start) => start,
        httparse::Status::Partial => return Ok(None),
    };
    let status = head.code.unwrap_or(0);
    let mut close = head.version == Some(0);
    let (mut length, mut chunked) = (None, false);
    for header in head.headers.iter() {
        let value = std::str::from_utf8(header.value).map_err(|_| format!("header {}: not UTF-8", header.name))?;
        if header.name.eq_ignore_ascii_case("content-length") {
            length = Some(value.trim().parse::<usize>().map_err(|error| format!("Content-Length {value:?}: {error}"))?);
        } else if header.name.eq_ignore_ascii_case("transfer-encoding") {
            chunked = value.to_ascii_lowercase().contains("chunked");
        } else if header.name.eq_ignore_ascii_case("connection") {
            for token in value.split(',') {
                close = token.trim().eq_ignore_ascii_case("close") || (close && !token.trim().eq_ignore_ascii_case("keep-alive"));
            }
        }
    }
    let rest = &buffer[start..];
    let done = |body: &[u8], taken, close| Ok(Some(Answer { status, close, body: body.to_vec(), len: start + taken }));
    if matches!(status, 100..=199 | 204 | 304) {
        return done(&[], 0, close);
    }
    if chunked {
        return Ok(dechunk(rest)?.map(|(body, taken)| Answer { status, close, body, len: start + taken }));
    }
    match length {
        Some(length) if rest.len() >= length => done(&rest[..length], length, close),
        Some(_) => Ok(None),
        // Without a length the end of the connection is the end of the body.
        None if ended => done(rest, rest.len(), true),
        None => Ok(None),
    }
}

fn dechunk(mut rest: &[u8]) -> Result<Option<(Vec<u8>, usize)>, String> {
    let (whole, mut body) = (rest.len(), Vec::new());
    loop {
        let (line, size) = match httparse::parse_chunk_size(rest).map_err(|_| "bad size of a chunk")? {
            httparse::Status::Complete((line, size)) => (line, usize::try_from(size).map_err(|error| error.to_string())?),
            httparse::Status::Partial => return Ok(None),
        };
        if size == 0 {
            // Trailers end with an empty line; without any the line is that of the end.
            let end = match rest[line..].starts_with(b"\r\n") {
                true => Some(2),
                false => rest[line..].windows(4).position(|window| window == b"\r\n\r\n").map(|at| at + 4),
            };
            return Ok(end.map(|end| (body, whole - rest.len() + line + end)));
        }
        let Some(chunk) = rest.get(line..).and_then(|rest| rest.get(..size.checked_add(2)?)) else { return Ok(None) };
        body.extend_from_slice(&chunk[..size]);
        rest = &rest[line + size + 2..];
    }
}

/// Who answered: the numbers after the words `pid` and `generation`, in plain text or JSON.
pub fn who(body: &[u8]) -> Who {
    Who { generation: number_after(body, b"generation"), pid: number_after(body, b"pid") }
}

fn number_after(body: &[u8], word: &[u8]) -> Option<u64> {
    let at = body.windows(word.len()).position(|window| window == word)? + word.len();
    let rest = &body[at..];
    let digits = rest.iter().take(4).position(u8::is_ascii_digit)?;
    let number = rest[digits..].iter().take_while(|byte| byte.is_ascii_digit());
    number.take(19).try_fold(0u64, |sum, digit| sum.checked_mul(10)?.checked_add(u64::from(digit - b'0')))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_of_every_framing() {
        let whole = |text: &str, ended| parse(text.as_bytes(), ended).unwrap();
        for text in ["HTTP/1.1 200 OK\r\n\r\nhello", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhell", "HTTP/1.1 2"] {
            assert_eq!(whole(text, false), None);
        }
        let by_length = whole("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: Close\r\n\r\nhelloHTTP", false).unwrap();
        assert_eq!((by_length.body.as_slice(), by_length.close, by_length.len), (b"hello".as_slice(), true, 62));
        let by_end = whole("HTTP/1.1 404 No\r\n\r\nhello", true).unwrap();
        assert_eq!((by_end.status, by_end.body.as_slice(), by_end.close), (404, b"hello".as_slice(), true));
        let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n2\r\nlo\r\n0\r\n\r\n";
        for cut in 0..chunked.len() {
            assert_eq!(whole(&chunked[..cut], false), None, "{cut}");
        }
        let all = whole(&format!("{chunked}next"), false).unwrap();
        assert_eq!((all.body.as_slice(), all.len, all.close), (b"hello".as_slice(), chunked.len(), false));
        assert!(parse(b"SSH-2.0-x\r\n", false).is_err());
        assert!(whole("HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n", false).unwrap().close);
        assert!(!whole("HTTP/1.0 200 OK\r\nContent-Length: 0\r\nConnection: keep-alive\r\n\r\n", false).unwrap().close);
    }

    #[test]
    fn who_answered() {
        let plain = who(b"hello from pid 17 generation 3 worker 12 version v2\n");
        assert_eq!(plain, Who { generation: Some(3), pid: Some(17) });
        assert_eq!(who(br#"{"pid":4,"generation": 5}"#), Who { generation: Some(5), pid: Some(4) });
        assert_eq!(who(b"hello"), Who::default());
        assert_eq!(who(b"pid 99999999999999999999999"), Who { generation: None, pid: Some(9_999_999_999_999_999_999) });
    }
}
