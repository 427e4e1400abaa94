//! RFC 9112 as a table: raw requests, their status, and whether the connection stays open.
//!
//! If the start of the next request would be uncertain, the server sends `Connection: close` and
//! closes the connection; otherwise it keeps the connection open. The result must not depend on
//! how the network splits a request: each request is sent whole, byte by byte,
//! and in two pieces split at every byte.

use crate::common::{CLOSED, OPEN, TestServer, check};

/// A section (of RFC 9112, unless another RFC is named), a request, its status, and whether the
/// connection stays open.
type Row = (&'static str, &'static [u8], u16, bool);

/// A GET with these header lines besides Host.
macro_rules! get {
    ($lines:literal) => {
        concat!("GET /healthz HTTP/1.1\r\nHost: localhost\r\n", $lines, "\r\n\r\n").as_bytes()
    };
}

/// A request with this request line.
macro_rules! first {
    ($line:literal) => {
        concat!($line, "\r\nHost: localhost\r\n\r\n").as_bytes()
    };
}

/// A GET of HTTP/1.0, with exactly these header lines.
macro_rules! old {
    ($lines:literal) => {
        concat!("GET /healthz HTTP/1.0\r\n", $lines, "\r\n").as_bytes()
    };
}

/// A GET with exactly these header lines.
macro_rules! host {
    ($lines:literal) => {
        concat!("GET /healthz HTTP/1.1\r\n", $lines, "\r\n").as_bytes()
    };
}

/// A POST with these further headers and this body after its Host line.
macro_rules! post {
    ($rest:literal) => {
        concat!("POST /channels/a HTTP/1.1\r\nHost: localhost\r\n", $rest).as_bytes()
    };
}

/// A chunked POST with this body.
macro_rules! chunked {
    ($body:literal) => {
        concat!(
            "POST /channels/a HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n",
            $body
        )
        .as_bytes()
    };
}

#[rustfmt::skip] // a table: one row per line
const TABLE: &[Row] = &[
    // Message parsing: a line may end with a bare LF, and empty lines may precede the request.
    ("2.2", b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n", 200, OPEN),
    ("2.2", b"GET /healthz HTTP/1.1\nHost: localhost\n\n", 200, OPEN),
    ("2.2", b"GET /healthz HTTP/1.1\nHost: localhost\r\n\n", 200, OPEN),
    ("2.2", b"\r\nGET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n", 200, OPEN),
    ("2.2", b"\r\n\r\n\nGET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n", 200, OPEN),
    ("2.2", b"\rGET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n", 400, CLOSED),
    ("2.2", b"GET /healthz HTTP/1.1\rHost: localhost\r\n\r\n", 400, CLOSED),
    ("2.2", b"GET /healthz HTTP/1.1\r\rHost: localhost\r\n\r\n", 400, CLOSED),
    ("2.2", b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\rX: a\r\n\r\n", 400, CLOSED),
    ("2.2", get!(" X: white space before the first field"), 400, CLOSED),
    ("2.2", b"GET /healthz HTTP/1.1\r\n Host: localhost\r\n\r\n", 400, CLOSED),
    ("2.2", b"GET /healthz HTTP/1.1\r\n\tHost: localhost\r\n\r\n", 400, CLOSED),
    ("2.2", b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03\n\r\n\r\n", 400, CLOSED), // TLS
    ("2.2", b"\0\n\n", 400, CLOSED),
    ("2.2", b"\xef\xbb\xbfGET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n", 400, CLOSED),

    // The HTTP version in the request line.
    ("2.3", first!("GET /healthz HTTP/9.9"), 505, CLOSED),
    ("2.3", first!("GET /healthz HTTP/2.0"), 505, CLOSED),
    ("2.3", first!("GET /healthz HTTP/0.9"), 505, CLOSED),
    ("2.3", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505, CLOSED), // HTTP/2
    ("2.3", first!("GET /healthz HTTP/1."), 400, CLOSED),
    ("2.3", first!("GET /healthz HTTP/1"), 400, CLOSED),
    ("2.3", first!("GET /healthz HTTP/11"), 400, CLOSED),
    ("2.3", first!("GET /healthz HTTP/1.10"), 400, CLOSED),
    ("2.3", first!("GET /healthz HTTP/01.1"), 400, CLOSED),
    ("2.3", first!("GET /healthz HTTP/a.b"), 400, CLOSED),
    ("2.3", first!("GET /healthz HTTP/1,1"), 400, CLOSED),
    ("2.3", first!("GET /healthz http/1.1"), 400, CLOSED),
    ("2.3", first!("GET /healthz HTTPS/1.1"), 400, CLOSED),
    ("2.3", first!("GET /healthz ICY/1.1"), 400, CLOSED),
    ("2.3", first!("GET /healthz XYZZY"), 400, CLOSED),
    ("9110 2.5", first!("GET /healthz HTTP/1.2"), 200, OPEN), // a later minor version counts as 1.1
    ("9110 2.5", first!("GET /healthz HTTP/1.9"), 200, OPEN),
    ("9110 2.5", b"GET /healthz HTTP/1.9\r\n\r\n", 400, CLOSED), // HTTP/1.1 requires a Host

    // The request line: three words, separated by single spaces.
    ("3", b"GET /healthz\r\n\r\n", 400, CLOSED), // HTTP/0.9
    ("3", first!("GET"), 400, CLOSED),
    ("3", first!("GET "), 400, CLOSED),
    ("3", first!("GET  /healthz HTTP/1.1"), 400, CLOSED),
    ("3", first!("GET /healthz  HTTP/1.1"), 400, CLOSED),
    ("3", first!("GET /healthz HTTP/1.1 "), 400, CLOSED),
    ("3", first!(" GET /healthz HTTP/1.1"), 400, CLOSED),
    ("3", first!("GET\t/healthz HTTP/1.1"), 400, CLOSED),
    ("3", first!("GET /healthz\tHTTP/1.1"), 400, CLOSED),
    ("3", first!("GET /a b HTTP/1.1"), 400, CLOSED),
    ("3", first!("GET /a b c HTTP/1.0"), 400, CLOSED),
    ("3", first!("GET /healthz HTTP/1.1 HTTP/1.1"), 400, CLOSED),

    // The method is a token, and case matters.
    ("3.1", first!("G(T /healthz HTTP/1.1"), 400, CLOSED),
    ("3.1", first!("G\u{cb}T /healthz HTTP/1.1"), 400, CLOSED),
    ("3.1", first!("G\0T /healthz HTTP/1.1"), 400, CLOSED),
    ("3.1", first!("GET: /healthz HTTP/1.1"), 400, CLOSED),
    ("3.1", first!("get /healthz HTTP/1.1"), 501, CLOSED),
    ("3.1", first!("Get /healthz HTTP/1.1"), 501, CLOSED),
    ("3.1", first!("GETT /healthz HTTP/1.1"), 501, CLOSED),
    ("3.1", first!("BREW /healthz HTTP/1.1"), 501, CLOSED),
    ("3.1", first!("PROPFIND /healthz HTTP/1.1"), 501, CLOSED),
    ("3.1", first!("!#$%&'*+-.^_`|~ /healthz HTTP/1.1"), 501, CLOSED), // an unusual but valid token

    // The four forms of the request target.
    ("3.2", first!("GET healthz HTTP/1.1"), 400, CLOSED),
    ("3.2", first!("GET ?x HTTP/1.1"), 400, CLOSED),
    ("3.2", first!("GET /\0 HTTP/1.1"), 400, CLOSED),
    ("3.2", first!("GET /\x01 HTTP/1.1"), 400, CLOSED),
    ("3.2", first!("GET /\x7f HTTP/1.1"), 400, CLOSED),
    ("3.2", b"GET /\xff HTTP/1.1\r\nHost: localhost\r\n\r\n", 400, CLOSED),
    ("3.2.1", first!("GET /healthz?x=/?:@ HTTP/1.1"), 200, OPEN),
    ("3.2.1", first!("GET /%68ealth%7A HTTP/1.1"), 200, OPEN),
    ("3.2.1", first!("GET /% HTTP/1.1"), 400, CLOSED),
    ("3.2.1", first!("GET /%2 HTTP/1.1"), 400, CLOSED),
    ("3.2.1", first!("GET /%zz HTTP/1.1"), 400, CLOSED),
    ("3.2.1", first!("GET /%+1 HTTP/1.1"), 400, CLOSED),
    ("3.2.1", first!("GET /a%00b HTTP/1.1"), 400, CLOSED),
    ("3.2.1", first!("GET /channels/%ff HTTP/1.1"), 400, CLOSED),
    ("3.2.1", first!("GET /%c3 HTTP/1.1"), 400, CLOSED),
    ("3.2.1", first!("GET /%ed%a0%80 HTTP/1.1"), 400, CLOSED), // one half of a surrogate pair
    ("3.2.1", first!("GET /a#b HTTP/1.1"), 400, CLOSED),
    ("3.2.2", first!("GET http://localhost/healthz HTTP/1.1"), 200, OPEN),
    ("3.2.2", first!("GET HTTP://LOCALHOST:80/healthz HTTP/1.1"), 200, OPEN),
    ("3.2.2", first!("GET http://localhost HTTP/1.1"), 200, OPEN),
    ("3.2.2", first!("GET https://localhost/healthz?x=http://a/ HTTP/1.1"), 200, OPEN),
    ("3.2.2", first!("GET http://evil.example/healthz HTTP/1.1"), 421, OPEN), // the target's host overrides Host
    ("3.2.2", b"GET http://localhost/healthz HTTP/1.1\r\nHost: evil.example\r\n\r\n", 200, OPEN),
    ("3.2.2", b"GET http://localhost/healthz HTTP/1.1\r\n\r\n", 400, CLOSED), // Host is still required
    ("3.2.2", first!("GET ftp://localhost/ HTTP/1.1"), 400, CLOSED),
    ("3.2.2", first!("GET http:///healthz HTTP/1.1"), 400, CLOSED),
    ("3.2.2", first!("GET http:/healthz HTTP/1.1"), 400, CLOSED),
    ("3.2.2", first!("GET //localhost/healthz HTTP/1.1"), 404, OPEN), // a path that begins with two slashes
    ("9110 4.2.4", first!("GET http://me@localhost/ HTTP/1.1"), 400, CLOSED),
    ("3.2.3", first!("CONNECT /healthz HTTP/1.1"), 501, CLOSED),
    ("3.2.3", b"CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\n\r\n", 501, CLOSED),
    ("3.2.3", first!("GET localhost:80 HTTP/1.1"), 400, CLOSED),
    ("3.2.4", first!("OPTIONS * HTTP/1.1"), 204, OPEN),
    ("3.2.4", first!("GET * HTTP/1.1"), 400, CLOSED),
    ("3.2.4", first!("OPTIONS ** HTTP/1.1"), 400, CLOSED),

    // A request has exactly one Host; in HTTP/1.0, it is optional.
    ("3.2", host!(""), 400, CLOSED),
    ("3.2", host!("Host: localhost\r\nHost: localhost\r\n"), 400, CLOSED),
    ("3.2", host!("Host: localhost\r\nhost: other\r\n"), 400, CLOSED),
    ("3.2", host!("Host: localhost, other\r\nHost: localhost\r\n"), 400, CLOSED),
    ("3.2", host!("Host: a b\r\n"), 400, CLOSED),
    ("3.2", host!("Host: user@localhost\r\n"), 400, CLOSED),
    ("3.2", host!("Host: localhost:http\r\n"), 400, CLOSED),
    ("3.2", host!("Host: localhost/\r\n"), 400, CLOSED),
    ("3.2", host!("Host: http://localhost\r\n"), 400, CLOSED),
    ("3.2", host!("Host: [::1\r\n"), 400, CLOSED),
    ("3.2", host!("Host: [localhost]\r\n"), 400, CLOSED),
    ("3.2", host!("Host: ::1\r\n"), 400, CLOSED),
    ("3.2", host!("Host: l\u{f6}calhost\r\n"), 400, CLOSED),
    ("3.2", host!("Host: [::1]:80\r\n"), 200, OPEN),
    ("3.2", host!("HOST:localhost:\r\n"), 200, OPEN),
    ("3.2", host!("Host: \t localhost \t \r\n"), 200, OPEN),
    ("3.2", host!("Host:\r\n"), 421, OPEN),
    ("3.2", old!("Host: a\r\nHost: b\r\n"), 400, CLOSED),

    // Header fields: a token, directly followed by a colon, then text without control characters.
    ("5", get!("X:"), 200, OPEN),
    ("5", get!("X:a"), 200, OPEN),
    ("5", get!("X: \t a tab\tand \u{fc} are text \t "), 200, OPEN),
    ("5", get!("!#$%&'*+-.^_`|~09: a token"), 200, OPEN),
    ("5", get!("X: a\r\nX: b\r\nx: c"), 200, OPEN),
    ("5", get!("X"), 400, CLOSED),
    ("5", get!(": a"), 400, CLOSED),
    ("5", get!("X y: a"), 400, CLOSED),
    ("5", get!("X(: a"), 400, CLOSED),
    ("5", get!("X{}: a"), 400, CLOSED),
    ("5", get!("X\0: a"), 400, CLOSED),
    ("5", get!("\u{fc}: a"), 400, CLOSED),
    ("5", get!("X\r: a"), 400, CLOSED),
    ("5.1", get!("X : white space before the colon"), 400, CLOSED),
    ("5.1", get!("X\t: a tab before the colon"), 400, CLOSED),
    ("5.1", get!("Content-Length : 5"), 400, CLOSED),
    ("5.1", get!("Transfer-Encoding : chunked"), 400, CLOSED),
    ("5.2", get!("X: a\r\n folded"), 400, CLOSED),
    ("5.2", get!("X: a\r\n\tfolded"), 400, CLOSED),
    ("5.2", get!("X:\r\n folded"), 400, CLOSED),
    ("5.2", get!("X: a\r\n \r\nY: b"), 400, CLOSED),
    ("9110 5.5", get!("X: a\rb"), 400, CLOSED),
    ("9110 5.5", get!("X: a\r\rb"), 400, CLOSED),
    ("9110 5.5", get!("X: a\0b"), 400, CLOSED),
    ("9110 5.5", get!("X: a\x01b"), 400, CLOSED),
    ("9110 5.5", get!("X: a\x1bb"), 400, CLOSED),
    ("9110 5.5", get!("X: a\x7fb"), 400, CLOSED),

    // Transfer-Encoding: the server accepts only `chunked`, and only once.
    ("6.1", post!("Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"), 200, OPEN),
    ("6.1", post!("Transfer-Encoding: \tCHUNKED \r\n\r\n5\r\nhello\r\n0\r\n\r\n"), 200, OPEN),
    ("6.1", post!("Transfer-Encoding: gzip\r\n\r\n0\r\n\r\n"), 501, CLOSED),
    ("6.1", post!("Transfer-Encoding: identity\r\n\r\n0\r\n\r\n"), 501, CLOSED),
    ("6.1", post!("Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n"), 501, CLOSED),
    ("6.1", post!("Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n"), 501, CLOSED),
    ("6.1", post!("Transfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n"), 501, CLOSED),
    ("6.1", post!("Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n"), 501, CLOSED),
    ("6.1", post!("Transfer-Encoding: chunked;q=1\r\n\r\n0\r\n\r\n"), 501, CLOSED),
    ("6.1", post!("Transfer-Encoding: \"chunked\"\r\n\r\n0\r\n\r\n"), 501, CLOSED),
    ("6.1", post!("Transfer-Encoding:\r\n\r\n0\r\n\r\n"), 501, CLOSED),
    ("6.1", post!("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"), 501, CLOSED),
    ("6.1", post!("Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n"), 400, CLOSED),
    ("6.1", post!("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"), 400, CLOSED),
    ("6.1", post!("Content-Length: 5\r\nTransfer-Encoding: identity\r\n\r\nhello"), 400, CLOSED),
    ("6.1", b"POST /channels/a HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400, CLOSED),

    // Content-Length: the value must be one decimal number.
    ("6.2", post!("Content-Length: 5\r\n\r\nhello"), 200, OPEN),
    ("6.2", post!("Content-Length: 0005\r\n\r\nhello"), 200, OPEN),
    ("6.2", post!("Content-Length:\t5\t\r\n\r\nhello"), 200, OPEN),
    ("6.2", post!("Content-Length: 0\r\n\r\n"), 200, OPEN),
    ("6.2", post!("Content-Length: +5\r\n\r\nhello"), 400, CLOSED),
    ("6.2", post!("Content-Length: -5\r\n\r\nhello"), 400, CLOSED),
    ("6.2", post!("Content-Length: 5,5\r\n\r\nhello"), 400, CLOSED),
    ("6.2", post!("Content-Length: 5, 5\r\n\r\nhello"), 400, CLOSED),
    ("6.2", post!("Content-Length: 5 5\r\n\r\nhello"), 400, CLOSED),
    ("6.2", post!("Content-Length:\r\n\r\nhello"), 400, CLOSED),
    ("6.2", post!("Content-Length: 0x5\r\n\r\nhello"), 400, CLOSED),
    ("6.2", post!("Content-Length: 5e0\r\n\r\nhello"), 400, CLOSED),
    ("6.2", post!("Content-Length: 5.0\r\n\r\nhello"), 400, CLOSED),
    ("6.2", post!("Content-Length: \"5\"\r\n\r\nhello"), 400, CLOSED),
    ("6.2", post!("Content-Length: 5;\r\n\r\nhello"), 400, CLOSED),
    ("6.2", post!("Content-Length: five\r\n\r\nhello"), 400, CLOSED),
    ("6.2", post!("Content-Length: \u{ff15}\r\n\r\nhello"), 400, CLOSED),
    ("6.2", post!("Content-Length: 18446744073709551621\r\n\r\nhello"), 413, CLOSED), // 2^64 + 5
    ("6.3", post!("Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello"), 400, CLOSED),
    ("6.3", post!("Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello"), 400, CLOSED),
    ("6.3", post!("Content-Length: 5\r\nContent-Length:\r\n\r\nhello"), 400, CLOSED),
    ("6.3", post!("\r\n"), 411, CLOSED),
    ("6.3", get!("Content-Length: +5"), 400, CLOSED), // a GET without a body is checked, too
    ("6.3", get!("Content-Length: 5, 5"), 400, CLOSED),
    ("6.3", get!("Content-Length:"), 400, CLOSED),
    ("6.3", get!("Content-Length: 0"), 200, OPEN),
    ("6.3", b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\nhello", 200, CLOSED),
    ("6.3", b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 200, CLOSED),

    // Chunked bodies: chunk sizes, chunk extensions and trailers.
    ("7.1", chunked!("0\r\n\r\n"), 200, OPEN),
    ("7.1", chunked!("0000\r\n\r\n"), 200, OPEN),
    ("7.1", chunked!("A\r\n0123456789\r\na\r\n0123456789\r\n0\r\n\r\n"), 200, OPEN),
    ("7.1", chunked!("0000000000000005\r\nhello\r\n0\r\n\r\n"), 200, OPEN),
    ("7.1", chunked!("00000000000000005\r\nhello\r\n0\r\n\r\n"), 400, CLOSED), // 17 digits
    ("7.1", chunked!("10000000000000005\r\nhello\r\n0\r\n\r\n"), 400, CLOSED), // 2^64 + 5
    ("7.1", chunked!("ffffffffffffffff\r\nhello\r\n0\r\n\r\n"), 413, CLOSED),
    ("7.1", chunked!("\r\n\r\n"), 400, CLOSED),
    ("7.1", chunked!(" 5\r\nhello\r\n0\r\n\r\n"), 400, CLOSED),
    ("7.1", chunked!("+5\r\nhello\r\n0\r\n\r\n"), 400, CLOSED),
    ("7.1", chunked!("-5\r\nhello\r\n0\r\n\r\n"), 400, CLOSED),
    ("7.1", chunked!("0x5\r\nhello\r\n0\r\n\r\n"), 400, CLOSED),
    ("7.1", chunked!("5 0\r\nhello\r\n0\r\n\r\n"), 400, CLOSED),
    ("7.1", chunked!("5 \r\nhello\r\n0\r\n\r\n"), 400, CLOSED),
    ("7.1", chunked!("5\t\r\nhello\r\n0\r\n\r\n"), 400, CLOSED),
    ("7.1", chunked!("g\r\nhello\r\n0\r\n\r\n"), 400, CLOSED),
    ("7.1", chunked!("5_0\r\nhello\r\n0\r\n\r\n"), 400, CLOSED),
    ("7.1", chunked!("5\nhello\r\n0\r\n\r\n"), 400, CLOSED),
    ("7.1", chunked!("5\rhello\r\n0\r\n\r\n"), 400, CLOSED),
    ("7.1", chunked!("5\r\nhello0\r\n\r\n"), 400, CLOSED), // no CRLF after the chunk
    ("7.1", chunked!("5\r\nhello\n0\r\n\r\n"), 400, CLOSED),
    ("7.1", chunked!("4\r\nhello\r\n0\r\n\r\n"), 400, CLOSED), // the data is longer than the size
    ("7.1", chunked!("6\r\nhello\r\n0\r\n\r\n"), 400, CLOSED), // the data is shorter than the size
    ("7.1.1", chunked!("5;name=value;other=\"quoted; \\\" too\"\r\nhello\r\n0;last\r\n\r\n"), 200, OPEN),
    ("7.1.1", chunked!("5 \t; name = value\r\nhello\r\n0\r\n\r\n"), 200, OPEN),
    ("7.1.1", chunked!(";x=y\r\nhello\r\n0\r\n\r\n"), 400, CLOSED),
    ("7.1.1", chunked!("5;x\ny\r\nhello\r\n0\r\n\r\n"), 400, CLOSED), // some parsers end the line at the LF
    ("7.1.1", chunked!("5;\n\r\nhello\r\n0\r\n\r\n"), 400, CLOSED),
    ("7.1.1", chunked!("5;x=\"a\nb\"\r\nhello\r\n0\r\n\r\n"), 400, CLOSED),
    ("7.1.1", chunked!("5;x\ry\r\nhello\r\n0\r\n\r\n"), 400, CLOSED),
    ("7.1.1", chunked!("5;x\0y\r\nhello\r\n0\r\n\r\n"), 400, CLOSED),
    ("7.1.2", chunked!("0\r\nX-Sum: 1\r\nContent-Length: 9\r\n\r\n"), 200, OPEN),
    ("7.1.2", chunked!("0\r\nX : y\r\n\r\n"), 400, CLOSED),
    ("7.1.2", chunked!("0\r\n folded\r\n\r\n"), 400, CLOSED),
    ("7.1.2", chunked!("0\r\nX: a\r\n folded\r\n\r\n"), 400, CLOSED),
    ("7.1.2", chunked!("0\r\nX: a\rb\r\n\r\n"), 400, CLOSED),
    ("7.1.2", chunked!("0\r\nGET / HTTP/1.1\r\n\r\n"), 400, CLOSED),
    ("7.1.2", chunked!("0\r\n\n"), 400, CLOSED), // a bare LF does not end a line of a chunked body
    ("7.1.2", chunked!("0\n\r\n"), 400, CLOSED),
    ("7.1.2", chunked!("0\r\nX: a\n\r\n"), 400, CLOSED),
    ("7.1.2", chunked!("0\r\nX: a\r\n\n"), 400, CLOSED),
    ("7.1.2", chunked!("0\r\nX: a\n\n"), 400, CLOSED),
    ("7.1.2", chunked!("0\r\n\r\r\n\r\n"), 400, CLOSED),
    ("7.1.2", chunked!("0\r\n\rX: a\r\n\r\n"), 400, CLOSED),

    // Whether the connection stays open after the response.
    ("9.3", get!("Connection: keep-alive"), 200, OPEN),
    ("9.3", get!("Connection: close"), 200, CLOSED),
    ("9.3", get!("connection: CLOSE"), 200, CLOSED),
    ("9.3", get!("Connection: keep-alive, close"), 200, CLOSED),
    ("9.3", get!("Connection: keep-alive\r\nConnection: close"), 200, CLOSED),
    ("9.3", get!("Connection: ,, closed ,x-close"), 200, OPEN),
    ("9.3", old!(""), 200, CLOSED),
    ("9.3", old!("Host: localhost\r\n"), 200, CLOSED),
    ("9.3", old!("Connection: Keep-Alive\r\n"), 200, OPEN),
    ("9.3", old!("Connection: keep-alive, close\r\n"), 200, CLOSED),
    ("9110 10.1.1", get!("Expect: 200-ok"), 417, OPEN),
    ("9110 10.1.1", get!("Expect: 100-continue, x=y"), 417, OPEN),
    ("9110 10.1.1", post!("Expect: x=y\r\nContent-Length: 5\r\n\r\nhello"), 417, CLOSED), // the server does not read the body
    ("9110 10.1.1", get!("Expect: 100-continue\r\nExpect: x=y"), 417, OPEN), // repeated lines form a list
];

#[test]
fn every_row_gets_its_status_and_connection_state() {
    let server = TestServer::start();
    for (_, request, status, stays_open) in TABLE {
        check(&server, request, *status, *stays_open); // also sends the request byte by byte
    }
}

#[test]
fn request_split_at_any_byte_gets_the_same_result() {
    let server = TestServer::start();
    let mut before: &[u8] = b"";
    for (section, request, status, stays_open) in TABLE {
        // The previous row has already tested the cuts inside the bytes that both requests share.
        let same = request.iter().zip(before).take_while(|(byte, other)| byte == other).count();
        for cut in same.max(1)..request.len() {
            let mut client = server.connect();
            client.socket().set_nodelay(true).expect("a TCP socket");
            client.send(&request[..cut]);
            client.send(&request[cut..]);
            let name = format!("{section}, cut at {cut}: {}", request.escape_ascii());
            client.check(&name, *status, *stays_open);
        }
        before = request;
    }
}
