//! Arithmetic and formatting of figures: medians, fractions, thousands separators.

/// Converts a count to a float.
#[must_use]
#[allow(clippy::cast_precision_loss)] // counts are far below 2^52
pub fn float(count: u64) -> f64 {
    count as f64
}

/// Converts a difference to a float.
#[must_use]
#[allow(clippy::cast_precision_loss)] // counts are far below 2^52
pub fn signed(count: i64) -> f64 {
    count as f64
}

/// The median; for an even number of values, the mean of the two middle values. `None` if there are
/// no values.
///
/// ```
/// use sse_load::figures::median;
///
/// assert_eq!(median([3.0, 1.0, 8.0]), Some(3.0));
/// assert_eq!(median([]), None);
/// ```
pub fn median(values: impl IntoIterator<Item = f64>) -> Option<f64> {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => None,
        even if even % 2 == 0 => Some(f64::midpoint(values[middle - 1], values[middle])),
        _ => Some(values[middle]),
    }
}

/// Formats `value` with thousands separators and `digits` decimals.
///
/// ```
/// use sse_load::figures::digits;
///
/// assert_eq!(digits(-1_234_567.89, 1), "-1,234,567.9");
/// ```
#[must_use]
pub fn digits(value: f64, digits: usize) -> String {
    let text = format!("{value:.digits$}");
    let point = text.find('.').unwrap_or(text.len());
    let (whole, fraction) = text.split_at(point);
    let mut grouped = String::new();
    for (index, digit) in whole.char_indices() {
        let left = whole.len() - index;
        if left % 3 == 0 && index > 0 && !grouped.ends_with('-') {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped + fraction
}
