//! Means and quantiles with their uncertainty.

/// A number and its 95 % confidence interval.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Estimate {
    /// The number.
    pub value: f64,
    /// The interval; `None` where there is too little data for one.
    pub interval: Option<(f64, f64)>,
}

impl Estimate {
    /// The same, seen through a rising function.
    pub fn map(self, f: impl Fn(f64) -> f64) -> Self {
        Self { value: f(self.value), interval: self.interval.map(|(low, high)| (f(low), f(high))) }
    }
}

/// The normal distribution's two-sided 95 % quantile.
const NORMAL: f64 = 1.959_963_985;

/// Student's two-sided 95 % quantiles for 1 to 30 degrees of freedom.
const STUDENT: [f64; 30] = [
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160,
    2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056,
    2.052, 2.048, 2.045, 2.042,
];

/// Student's two-sided 95 % quantile; beyond the table to about 0.1 %.
fn student(freedom: usize) -> f64 {
    STUDENT.get(freedom.wrapping_sub(1)).copied().unwrap_or(NORMAL + 2.4 / freedom as f64)
}

/// The mean of all values, from how many there are in each window and their sums.
///
/// Neighbouring tokens are far from independent, windows nearly so: the interval treats each window as
/// one draw (the ratio estimator of cluster sampling: Cochran, *Sampling Techniques*, section 6.4). So
/// there is none for fewer than two windows.
pub(crate) fn mean(windows: &[(usize, f64)]) -> Estimate {
    let value = ratio(windows);
    let error = standard_error(windows, value);
    let reach = error.map(|error| error * student(windows.len() - 1));
    Estimate { value, interval: reach.map(|reach| (value - reach, value + reach)) }
}

fn ratio(windows: &[(usize, f64)]) -> f64 {
    let count: usize = windows.iter().map(|window| window.0).sum();
    windows.iter().map(|window| window.1).sum::<f64>() / count.max(1) as f64
}

fn standard_error(windows: &[(usize, f64)], mean: f64) -> Option<f64> {
    let draws = windows.len() as f64;
    let count: usize = windows.iter().map(|window| window.0).sum();
    let residual = |&(count, sum): &(usize, f64)| (sum - mean * count as f64).powi(2);
    let squares: f64 = windows.iter().map(residual).sum();
    let variance = squares * draws / (draws - 1.0);
    (windows.len() > 1 && count > 0).then(|| variance.sqrt() / count as f64)
}

/// The share of hits, from how many tries there are in each window and how many of them are hits, with
/// Wilson's interval for as many independent tries as would have the windows' standard error.
pub(crate) fn share(windows: &[(usize, f64)]) -> Estimate {
    let value = ratio(windows);
    let interval = standard_error(windows, value).map(|error| {
        let tries: usize = windows.iter().map(|window| window.0).sum();
        let spread = value * (1.0 - value);
        let tries = if error > 0.0 { spread / error.powi(2) } else { tries as f64 };
        let z = student(windows.len() - 1).powi(2) / tries;
        let middle = (value + z / 2.0) / (1.0 + z);
        let reach = (z * (spread + z / 4.0)).sqrt() / (1.0 + z);
        ((middle - reach).max(0.0), (middle + reach).min(1.0))
    });
    Estimate { value, interval }
}

/// The smallest value that at least the share `p` of all `values` does not exceed, with the interval that
/// order statistics give if values are independent.
pub(crate) fn quantile(values: &mut [f32], p: f64) -> Option<Estimate> {
    let count = values.len() as f64;
    let last = values.len().checked_sub(1)?;
    values.sort_unstable_by(f32::total_cmp);
    let ranked = |rank: f64| f64::from(values[(rank.ceil().max(1.0) as usize - 1).min(last)]);
    let reach = NORMAL * (count * p * (1.0 - p)).sqrt();
    let (low, high) = (count * p - reach, count * p + reach + 1.0);
    let interval = (low >= 1.0 && high <= count).then(|| (ranked(low), ranked(high)));
    Some(Estimate { value: ranked(count * p), interval })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mean_is_that_of_all_values_and_its_interval_that_of_windows() {
        // Four equal windows: the usual interval of their four means 1, 2, 3, 4.
        let windows = [(10, 10.0), (10, 20.0), (10, 30.0), (10, 40.0)];
        let estimate = mean(&windows);
        let (low, high) = estimate.interval.unwrap();
        let reach = 3.182 * (5.0f64 / 3.0).sqrt() / 2.0;
        assert_eq!(estimate.value, 2.5);
        assert!((low - (2.5 - reach)).abs() < 1e-12 && (high - (2.5 + reach)).abs() < 1e-12);
        // A short window counts for little.
        assert_eq!(mean(&[(9, 9.0), (1, 11.0)]).value, 2.0);
        assert_eq!(mean(&[(9, 9.0)]), Estimate { value: 1.0, interval: None });
    }

    #[test]
    fn intervals_hold_what_they_promise() {
        // 2000 times, the mean of 12 windows of 5 values that are alike within their window.
        let mut state = 1u64;
        let mut uniform = move || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 11) as f64 / (1u64 << 53) as f64
        };
        let mut held = 0;
        for _ in 0..2000 {
            let windows: Vec<_> = (0..12).map(|_| (5, 5.0 * uniform())).collect();
            let (low, high) = mean(&windows).interval.unwrap();
            held += usize::from((low..=high).contains(&0.5));
        }
        assert!((1860..=1940).contains(&held), "{held} of 2000");
    }

    #[test]
    fn shares_stay_between_nothing_and_all() {
        let all = share(&[(100, 100.0), (100, 100.0)]);
        let (low, high) = all.interval.unwrap();
        assert_eq!((all.value, high), (1.0, 1.0));
        assert!((0.5..1.0).contains(&low));
        let many: Vec<_> = (0..40).map(|at| (100, if at % 2 == 0 { 45.0 } else { 55.0 })).collect();
        let (low, high) = share(&many).interval.unwrap();
        assert!((low - 0.484).abs() < 2e-3 && (high - 0.516).abs() < 2e-3, "{low} {high}");
    }

    #[test]
    fn quantiles_are_values_and_their_interval_surrounds_them() {
        let mut values: Vec<f32> = (1..=2000).rev().map(|value| value as f32).collect();
        let estimate = quantile(&mut values, 0.99).unwrap();
        assert_eq!((estimate.value, estimate.interval), (1980.0, Some((1972.0, 1990.0))));
        assert_eq!(quantile(&mut values[..50], 0.99).unwrap().interval, None);
        assert_eq!(quantile(&mut [], 0.99), None);
    }

    #[test]
    fn the_table_and_what_follows_it_fall() {
        let all: Vec<_> = (1..200).map(student).collect();
        assert!(all.windows(2).all(|pair| pair[0] > pair[1]) && all[198] > NORMAL);
        assert!((student(60) - 2.0003).abs() < 1e-3 && (student(120) - 1.9799).abs() < 1e-3);
    }
}
