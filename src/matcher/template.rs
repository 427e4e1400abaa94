//! URI templates (RFC 6570, all levels) as regular expressions: what each expression
//! can expand to, whatever its variables hold.
//!
//! A variable may hold a string, a list, an associative array or nothing, and nothing
//! expands to nothing. That the same variable holds the same everywhere is not looked
//! at.

use std::fmt::Write;

use super::MatcherError;
use super::engine::Engine;

/// The most variables of an expression of which each may be the first: what is compiled
/// grows by their square.
const CASES_MAX: usize = 16;

/// A compiled template.
pub(super) struct Template {
    /// What every expansion begins with: most topics are told apart by it alone.
    prefix: Box<str>,
    rest: Engine,
}

impl Template {
    /// Compiles a text that [`is_one`].
    pub(super) fn new(text: &str) -> Result<Self, MatcherError> {
        let first = text.find('{').unwrap_or_default();
        // What would be escaped in an expansion is not compared as it stands.
        let plain = text[..first].bytes().take_while(|byte| is_kept(char::from(*byte))).count();
        let (prefix, rest) = text.split_at(plain);
        // The expression is ours and sound: it can only be too big.
        let pattern = pattern(rest)?.ok_or(MatcherError::TooBig)?;
        let rest = Engine::new(&pattern).map_err(|_| MatcherError::TooBig)?;
        Ok(Self { prefix: prefix.into(), rest })
    }

    /// The heap memory it takes, in bytes.
    pub(super) fn bytes(&self) -> usize {
        self.prefix.len() + self.rest.bytes()
    }

    pub(super) fn matches(&self, topic: &str) -> bool {
        topic.strip_prefix(&*self.prefix).is_some_and(|rest| self.rest.matches(rest))
    }
}

/// What an operator makes of its variables (RFC 6570, appendix A).
struct Operator {
    first: &'static str,
    separator: &'static str,
    /// Whether each value stands behind its name, and what then follows the name of an
    /// empty one.
    named: Option<&'static str>,
    /// Whether reserved characters stay as they are.
    reserved: bool,
}

impl Operator {
    /// The operator and the text behind it.
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

    /// One character of a value.
    fn character(&self) -> &'static str {
        if self.reserved {
            r"(?:[A-Za-z0-9._~:/?#\[\]@!$&'()*+,;=-]|%[0-9A-Fa-f]{2})"
        } else {
            "(?:[A-Za-z0-9._~-]|%[0-9A-Fa-f]{2})"
        }
    }

    /// One character of a list that stands there as one value, and with `pairs` of an
    /// associative array.
    fn listed(&self, pairs: bool) -> &'static str {
        match (self.reserved, pairs) {
            (true, _) => self.character(),
            (false, false) => "(?:[A-Za-z0-9._~,-]|%[0-9A-Fa-f]{2})",
            (false, true) => "(?:[A-Za-z0-9._~,=-]|%[0-9A-Fa-f]{2})",
        }
    }

    /// What a variable can expand to, if it is defined.
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
        let behind = |value: &str| match empty {
            "" => format!("(?:={value})?"),
            sign => format!("{sign}{value}"),
        };
        let name = escaped(variable.name);
        match variable.modifier {
            Modifier::Prefix(length) => name + &behind(&prefix(self, length)),
            Modifier::None => name + &behind(&format!("{}*", self.listed(false))),
            Modifier::Explode => {
                // A list repeats the name, an associative array has names of its own.
                let item = format!("{one}+{}", behind(&format!("{one}*")));
                format!("{item}(?:{separator}{item})*")
            }
        }
    }

    /// What all the variables can expand to, of which each may be undefined; `None` if
    /// there are too many.
    fn expansion(&self, variables: &[Variable<'_>]) -> Option<String> {
        let values: Vec<String> = variables.iter().map(|variable| self.value(variable)).collect();
        let separator = escaped(self.separator);
        let behind = |values: &[String]| -> String {
            let open = format!("(?:{separator}");
            values.iter().flat_map(|value| [open.as_str(), value.as_str(), ")?"]).collect()
        };
        if self.first == self.separator {
            return Some(behind(&values));
        }
        let first = escaped(self.first);
        if self.named.is_none() && variables.iter().all(Variable::is_a_list) {
            // A list of any length is any number of values.
            let pairs = variables.iter().any(|variable| variable.modifier == Modifier::Explode);
            return Some(format!("(?:{first}{}*)?", self.listed(pairs)));
        }
        if variables.len() > CASES_MAX {
            return None;
        }
        // The first that is defined stands behind `first`, and the others behind it.
        let cases = (0..values.len())
            .map(|at| format!("{first}{}{}", values[at], behind(&values[at + 1..])));
        Some(format!("(?:{})?", cases.collect::<Vec<_>>().join("|")))
    }
}

/// At most so many characters of a value. An escaped character is up to four bytes of
/// UTF-8, of which all but the first begin with the bits 10: so a text has one number of
/// characters only, and its automaton stays small.
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

/// 1 to 9999, without leading zeros.
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

/// Whether a text is a template: it has expressions, and all of them are right. Anything
/// else means itself.
pub(super) fn is_one(text: &str) -> bool {
    let mut rest = text;
    while let Some(at) = rest.find(['{', '}']) {
        let Some((_, _, behind)) = expression(&rest[at..]) else { return false };
        rest = behind;
    }
    text.contains('{')
}

/// The expression that a text begins with, and the text behind it.
fn expression(text: &str) -> Option<(Operator, Vec<Variable<'_>>, &str)> {
    let (expression, behind) = text.strip_prefix('{')?.split_once('}')?;
    let (operator, variables) = Operator::of(expression)?;
    let variables: Option<Vec<_>> = variables.split(',').map(Variable::of).collect();
    Some((operator, variables?, behind))
}

/// The regular expression of a template; `None` if it is none.
///
/// Fails if it would be too long.
fn pattern(template: &str) -> Result<Option<String>, MatcherError> {
    let mut pattern = String::from("^");
    let mut rest = template;
    while let Some(at) = rest.find(['{', '}']) {
        let (literal, behind) = rest.split_at(at);
        pattern += &literal_of(literal);
        let Some((operator, variables, behind)) = expression(behind) else { return Ok(None) };
        pattern += &operator.expansion(&variables).ok_or(MatcherError::TooBig)?;
        rest = behind;
    }
    pattern += &literal_of(rest);
    pattern.push('$');
    Ok(Some(pattern))
}

/// Whether an expansion has this character of the template's own as it stands.
fn is_kept(c: char) -> bool {
    c.is_ascii_alphanumeric() || "-._~:/?#[]@!$&'()*+,;=%".contains(c)
}

/// Text outside of expressions: an expansion may have escaped what is not allowed in a
/// URL.
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

/// ASCII that means itself.
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

/// A byte as regular expressions write it.
fn hex(byte: u8, pattern: &mut String) {
    write!(pattern, r"\x{byte:02x}").expect("a String takes what is written to it");
}

#[cfg(test)]
mod tests;
