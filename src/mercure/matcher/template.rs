//! URI templates (RFC 6570, all levels), compiled to regular expressions.
//!
//! The regular expression of a template matches every possible expansion. A variable may be a
//! string, a list, an associative array or undefined; an undefined one expands to nothing. A
//! variable that occurs twice may match two different values.

use std::fmt::Write;

use super::engine::Engine;
use super::error::MatcherError;

/// The maximum number of variables in one template expression, if its expansion may begin with any
/// of these variables. The compiled size of such an expression grows with the square of the number
/// of variables.
const CASES_MAX: usize = 16;

/// A compiled template.
pub(super) struct Template {
    /// The literal text with which every expansion begins. Topics that do not match the template
    /// mostly differ in this prefix, so `rest` is tried for few of them.
    prefix: Box<str>,
    /// The regular expression that matches an expansion after the prefix.
    rest: Engine,
}

impl Template {
    /// Compiles a template. The text must be a template ([`is_template`]).
    pub(super) fn new(text: &str) -> Result<Self, MatcherError> {
        let first = text.find('{').unwrap_or_default();
        // The prefix ends before the first character that an expansion may escape, because such a
        // character cannot be compared literally.
        let plain = text[..first].bytes().take_while(|byte| is_kept(char::from(*byte))).count();
        let (prefix, rest) = text.split_at(plain);
        // The generated regular expression is well-formed, so an error means that it is too big.
        let pattern = pattern(rest)?.ok_or(MatcherError::TooBig)?;
        let rest = Engine::new(&pattern).map_err(|_| MatcherError::TooBig)?;
        Ok(Self { prefix: prefix.into(), rest })
    }

    /// The heap memory, in bytes.
    pub(super) fn bytes(&self) -> usize {
        self.prefix.len() + self.rest.bytes()
    }

    pub(super) fn matches(&self, topic: &str) -> bool {
        topic.strip_prefix(&*self.prefix).is_some_and(|rest| self.rest.matches(rest))
    }
}

/// How an operator expands its variables (RFC 6570, appendix A).
struct Operator {
    first: &'static str,
    separator: &'static str,
    /// `Some` if the variable's name precedes each value, as in `name=value`. The text in the
    /// `Some` is what follows the name if the value is empty.
    named: Option<&'static str>,
    /// Whether reserved characters stay unescaped.
    reserved: bool,
}

impl Operator {
    /// Splits a template expression into its operator and the text of its variables.
    fn of(expression: &str) -> Option<(Self, &str)> {
        let (first, separator, named, reserved) = match expression.chars().next()? {
            '+' => ("", ",", None, true),
            '#' => ("#", ",", None, true),
            '.' => (".", ".", None, false),
            '/' => ("/", "/", None, false),
            ';' => (";", ";", Some(""), false),
            '?' => ("?", "&", Some("="), false),
            '&' => ("&", "&", Some("="), false),
            _ => {
                let plain = Self { first: "", separator: ",", named: None, reserved: false };
                return Some((plain, expression));
            }
        };
        Some((Self { first, separator, named, reserved }, &expression[1..]))
    }

    /// Returns a regular expression that matches one character of a value.
    fn character(&self) -> &'static str {
        if self.reserved {
            r"(?:[A-Za-z0-9._~:/?#\[\]@!$&'()*+,;=-]|%[0-9A-Fa-f]{2})"
        } else {
            "(?:[A-Za-z0-9._~-]|%[0-9A-Fa-f]{2})"
        }
    }

    /// Returns a regular expression that matches one character of a list that is written as one
    /// value. With `pairs`, the value may also be an associative array.
    fn listed(&self, pairs: bool) -> &'static str {
        match (self.reserved, pairs) {
            (true, _) => self.character(),
            (false, false) => "(?:[A-Za-z0-9._~,-]|%[0-9A-Fa-f]{2})",
            (false, true) => "(?:[A-Za-z0-9._~,=-]|%[0-9A-Fa-f]{2})",
        }
    }

    /// Returns a regular expression that matches the expansion of a defined variable.
    fn value(&self, variable: &Variable<'_>) -> String {
        let (one, separator) = (self.character(), escaped(self.separator));
        let Some(empty) = self.named else {
            return match variable.modifier {
                Modifier::Prefix(length) => prefix(self, length),
                Modifier::None => format!("{}*", self.listed(false)),
                Modifier::Explode => {
                    let item = format!("{}*", self.listed(true));
                    format!("{item}(?:{separator}{item})*")
                }
            };
        };
        let assigned = |value: &str| match empty {
            "" => format!("(?:={value})?"),
            sign => format!("{sign}{value}"),
        };
        let name = escaped(variable.name);
        match variable.modifier {
            Modifier::Prefix(length) => name + &assigned(&prefix(self, length)),
            Modifier::None => name + &assigned(&format!("{}*", self.listed(false))),
            Modifier::Explode => {
                // A list repeats the variable's name; an associative array has its own names.
                let item = format!("{one}+{}", assigned(&format!("{one}*")));
                format!("{item}(?:{separator}{item})*")
            }
        }
    }

    /// Returns a regular expression that matches the expansion of all variables, any of which may
    /// be undefined. `None` if there are too many variables.
    fn expansion(&self, variables: &[Variable<'_>]) -> Option<String> {
        let values: Vec<String> = variables.iter().map(|variable| self.value(variable)).collect();
        let separator = escaped(self.separator);
        let separated = |values: &[String]| -> String {
            let open = format!("(?:{separator}");
            values.iter().flat_map(|value| [open.as_str(), value.as_str(), ")?"]).collect()
        };
        if self.first == self.separator {
            return Some(separated(&values));
        }
        let first = escaped(self.first);
        if self.named.is_none() && variables.iter().all(Variable::is_a_list) {
            // A list can have any length, so the regular expression of one list also matches the
            // values of several variables.
            let pairs = variables.iter().any(|variable| variable.modifier == Modifier::Explode);
            return Some(format!("(?:{first}{}*)?", self.listed(pairs)));
        }
        if variables.len() > CASES_MAX {
            return None;
        }
        // Each case assumes that one variable is the first defined one: its value follows `first`,
        // and then the values of later variables may follow.
        let cases = (0..values.len())
            .map(|at| format!("{first}{}{}", values[at], separated(&values[at + 1..])));
        Some(format!("(?:{})?", cases.collect::<Vec<_>>().join("|")))
    }
}

/// Returns a regular expression that matches at most `length` characters of a value.
///
/// An escaped character is up to four escaped bytes of UTF-8. All bytes after the first begin with
/// the bits 10. Because of these bits, the regular expression counts the characters of a text in
/// only one way, which keeps the automaton small.
fn prefix(operator: &Operator, length: u16) -> String {
    let one = operator.character();
    let kept = one.strip_suffix("|%[0-9A-Fa-f]{2})").unwrap_or(one);
    let escaped = "%[0-7C-Fc-f][0-9A-Fa-f](?:%[89ABab][0-9A-Fa-f]){0,3}";
    format!("{kept}|{escaped}){{0,{length}}}")
}

#[derive(Debug)]
struct Variable<'a> {
    name: &'a str,
    modifier: Modifier,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Modifier {
    None,
    Prefix(u16),
    Explode,
}

impl<'a> Variable<'a> {
    fn of(text: &'a str) -> Option<Self> {
        let (name, modifier) = if let Some(name) = text.strip_suffix('*') {
            (name, Modifier::Explode)
        } else if let Some((name, length)) = text.split_once(':') {
            (name, Modifier::Prefix(prefix_length(length)?))
        } else {
            (text, Modifier::None)
        };
        let is_sound = name.split('.').all(|part| !part.is_empty() && is_name(part));
        is_sound.then_some(Self { name, modifier })
    }

    fn is_a_list(&self) -> bool {
        !matches!(self.modifier, Modifier::Prefix(_))
    }
}

/// Parses a prefix length: 1 to 9999, without leading zeros.
fn prefix_length(text: &str) -> Option<u16> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    let is_sound = digits && (1..=4).contains(&text.len()) && !text.starts_with('0');
    is_sound.then(|| text.parse().ok()).flatten()
}

fn is_name(part: &str) -> bool {
    let mut rest = part;
    loop {
        rest = rest.trim_start_matches(|c: char| c.is_ascii_alphanumeric() || c == '_');
        match rest.as_bytes() {
            [] => return true,
            [b'%', a, b, ..] if a.is_ascii_hexdigit() && b.is_ascii_hexdigit() => rest = &rest[3..],
            _ => return false,
        }
    }
}

/// Whether a text is a template: it has template expressions, and all of them are well-formed. Any
/// other text is a literal topic.
pub(super) fn is_template(text: &str) -> bool {
    let mut rest = text;
    while let Some(at) = rest.find(['{', '}']) {
        let Some((_, _, after)) = expression(&rest[at..]) else { return false };
        rest = after;
    }
    text.contains('{')
}

/// Parses the template expression at the start of a text. Returns the expression's operator, its
/// variables, and the text after the expression.
fn expression(text: &str) -> Option<(Operator, Vec<Variable<'_>>, &str)> {
    let (expression, after) = text.strip_prefix('{')?.split_once('}')?;
    let (operator, variables) = Operator::of(expression)?;
    let variables: Option<Vec<_>> = variables.split(',').map(Variable::of).collect();
    Some((operator, variables?, after))
}

/// Returns the regular expression of a template; `None` if the text is not a template.
///
/// Fails if a template expression has too many variables.
fn pattern(template: &str) -> Result<Option<String>, MatcherError> {
    let mut pattern = String::from("^");
    let mut rest = template;
    while let Some(at) = rest.find(['{', '}']) {
        let (literal, after) = rest.split_at(at);
        pattern += &literal_of(literal);
        let Some((operator, variables, after)) = expression(after) else { return Ok(None) };
        pattern += &operator.expansion(&variables).ok_or(MatcherError::TooBig)?;
        rest = after;
    }
    pattern += &literal_of(rest);
    pattern.push('$');
    Ok(Some(pattern))
}

/// Whether an expansion keeps this literal character of the template unescaped.
fn is_kept(c: char) -> bool {
    c.is_ascii_alphanumeric() || "-._~:/?#[]@!$&'()*+,;=%".contains(c)
}

/// Returns a regular expression that matches literal text, and also the escaped form of characters
/// that are not allowed in a URL.
fn literal_of(text: &str) -> String {
    let mut pattern = String::new();
    for c in text.chars() {
        if is_kept(c) {
            pattern += &escaped(c.encode_utf8(&mut [0; 4]));
            continue;
        }
        pattern += "(?:";
        for byte in c.encode_utf8(&mut [0; 4]).bytes() {
            hex(byte, &mut pattern);
        }
        pattern.push('|');
        for byte in c.encode_utf8(&mut [0; 4]).bytes() {
            pattern.push('%');
            for half in [byte >> 4, byte & 15] {
                let digit = char::from_digit(u32::from(half), 16).expect("half a byte");
                pattern.extend(['[', digit, digit.to_ascii_uppercase(), ']']);
            }
        }
        pattern.push(')');
    }
    pattern
}

/// Escapes ASCII text for use in a regular expression.
fn escaped(text: &str) -> String {
    let mut pattern = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() {
            pattern.push(char::from(byte));
        } else {
            hex(byte, &mut pattern);
        }
    }
    pattern
}

/// Appends a byte as a hexadecimal escape of a regular expression.
fn hex(byte: u8, pattern: &mut String) {
    write!(pattern, r"\x{byte:02x}").expect("writing to a String cannot fail");
}

#[cfg(test)]
mod tests;
