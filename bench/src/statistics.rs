//! Numbers out of many rounds.

/// Median and quartiles.
#[derive(Clone, Copy)]
pub struct Spread {
    /// A quarter of the values is below.
    pub low: f64,
    /// Half of the values is below.
    pub median: f64,
    /// A quarter of the values is above.
    pub high: f64,
}

/// Of at least one value.
pub fn spread(values: impl Iterator<Item = f64>) -> Spread {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    let at = |part: f64| values[((values.len() - 1) as f64 * part).round() as usize];
    Spread { low: at(0.25), median: at(0.5), high: at(0.75) }
}

#[cfg(test)]
mod tests {
    use super::spread;

    #[test]
    fn quartiles_are_values() {
        let found = spread([5.0, 1.0, 4.0, 2.0, 3.0].into_iter());
        assert_eq!((found.low, found.median, found.high), (2.0, 3.0, 4.0));
        let one = spread([7.0].into_iter());
        assert_eq!((one.low, one.high), (7.0, 7.0));
    }
}
