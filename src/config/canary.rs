//! The values of `reload.steps`, `reload.step_time`, `reload.watch` and `reload.judge`.

use std::time::Duration;

use serde_json::{Value as Json, json};

use super::error::quoted;
use super::lists::Listed;
use super::row::Field;
use super::types::{Surge, Watch};
use super::values::{Scalar, Time, scalar};

/// An element of `reload.steps`: a number of workers, also in quotes, or a share of them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Step(Surge);

impl Scalar for Step {
    fn expected() -> String {
        Surge::expected()
    }

    fn from_text(text: &str) -> Result<Self, String> {
        match text.trim().parse::<i128>() {
            Ok(number) => Self::from_number(number),
            Err(_) => Surge::from_text(text).map(Step),
        }
    }

    fn from_number(number: i128) -> Result<Self, String> {
        Surge::from_number(number).map(Step)
    }

    fn schema() -> Json {
        let quoted = json!({ "type": "string", "pattern": "^[0-9]+$" });
        json!({ "anyOf": [Surge::schema(), quoted] })
    }
}
scalar!(Step);

impl Field<Surge> for Step {
    fn field(self) -> Surge {
        self.0
    }
}

impl Listed for Step {
    const LIST: &'static str = r#"a list of steps, such as ["1", "25%", "100%"]"#;
}

/// `reload.step_time`: a time, or `"manual"`.
#[derive(Clone, Copy, Debug)]
pub(super) struct StepTime(Option<Duration>);

impl Scalar for StepTime {
    fn expected() -> String {
        format!("{}, or \"manual\"", Time::expected())
    }

    fn from_text(text: &str) -> Result<Self, String> {
        match text {
            "manual" => Ok(Self(None)),
            _ => Time::from_text(text).map(|time| Self(Some(time.field()))).map_err(|error| format!("{error}, or \"manual\"")),
        }
    }

    fn from_number(number: i128) -> Result<Self, String> {
        Time::from_number(number).map(|time| Self(Some(time.field()))).map_err(|error| format!("{error}, or \"manual\""))
    }

    fn schema() -> Json {
        json!({ "anyOf": [Time::schema(), { "enum": ["manual"] }] })
    }
}
scalar!(StepTime);

impl Field<Option<Duration>> for StepTime {
    fn field(self) -> Option<Duration> {
        self.0
    }
}

/// `reload.watch`: a time, or `"off"`.
#[derive(Clone, Copy, Debug)]
pub(super) struct WatchTime(Watch);

impl Scalar for WatchTime {
    fn expected() -> String {
        format!("{}, or \"off\"", Time::expected())
    }

    fn from_text(text: &str) -> Result<Self, String> {
        match text {
            "off" => Ok(Self(Watch::Off)),
            _ => Time::from_text(text).map(|time| Self(Watch::For(time.field()))).map_err(|error| format!("{error}, or \"off\"")),
        }
    }

    fn from_number(number: i128) -> Result<Self, String> {
        Time::from_number(number).map(|time| Self(Watch::For(time.field()))).map_err(|error| format!("{error}, or \"off\""))
    }

    fn schema() -> Json {
        json!({ "anyOf": [Time::schema(), { "enum": ["off"] }] })
    }
}
scalar!(WatchTime);

impl Field<Watch> for WatchTime {
    fn field(self) -> Watch {
        self.0
    }
}

/// `reload.judge.error_ratio`: a percentage with at most four decimal places; the value is in millionths.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ratio(u32);

impl Scalar for Ratio {
    fn expected() -> String {
        r#"a percentage from "0%" to "100%", such as "0.5%""#.to_owned()
    }

    fn from_text(text: &str) -> Result<Self, String> {
        let percent = text.strip_suffix('%').map(str::trim_end).and_then(millionths);
        match percent {
            Some(ratio @ 0..=1_000_000) => Ok(Self(ratio)),
            Some(_) => Err(format!("{} is out of range; expected {}", quoted(text), Self::expected())),
            None => Err(format!("{} is no percentage; expected {}", quoted(text), Self::expected())),
        }
    }

    fn schema() -> Json {
        json!({ "type": "string", "pattern": "^(100(\\.0{1,4})?|[0-9]{1,2}(\\.[0-9]{1,4})?)\\s*%$" })
    }
}
scalar!(Ratio);

impl Field<u32> for Ratio {
    fn field(self) -> u32 {
        self.0
    }
}

/// A percentage in millionths: `0.5` is 5000.
fn millionths(percent: &str) -> Option<u32> {
    let (whole, places) = percent.split_once('.').unwrap_or((percent, "0"));
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if !digits(whole) || !digits(places) || places.len() > 4 || whole.len() > 4 {
        return None;
    }
    let places: u32 = format!("{places:0<4}").parse().ok()?;
    Some(whole.parse::<u32>().ok()? * 10_000 + places)
}

/// `reload.judge.latency_ratio`: a factor of at least 1 with at most three decimal places, in thousandths, or `"off"`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Factor(Option<u32>);

/// The largest factor, in thousandths.
const FACTOR_MAX: u32 = 1_000_000;

impl Factor {
    fn of_thousandths(text: &str, thousandths: f64) -> Result<Self, String> {
        match thousandths.round() {
            factor if (1000.0..=f64::from(FACTOR_MAX)).contains(&factor) => Ok(Self(Some(factor as u32))),
            _ => Err(format!("{text} is out of range; expected {}", Self::expected())),
        }
    }
}

impl Scalar for Factor {
    fn expected() -> String {
        r#"a number from 1.0 to 1000.0, such as 2.0, or "off""#.to_owned()
    }

    fn from_text(text: &str) -> Result<Self, String> {
        match (text, text.parse::<f64>()) {
            ("off", _) => Ok(Self(None)),
            (_, Ok(factor)) => Self::of_thousandths(&quoted(text), factor * 1000.0),
            _ => Err(format!("{} is no number; expected {}", quoted(text), Self::expected())),
        }
    }

    fn from_number(number: i128) -> Result<Self, String> {
        Self::of_thousandths(&number.to_string(), number as f64 * 1000.0)
    }

    fn from_fraction(number: f64) -> Result<Self, String> {
        Self::of_thousandths(&number.to_string(), number * 1000.0)
    }

    fn schema() -> Json {
        json!({ "anyOf": [{ "type": "number", "minimum": 1, "maximum": 1000 }, { "enum": ["off"] }] })
    }
}
scalar!(Factor);

impl Field<Option<u32>> for Factor {
    fn field(self) -> Option<u32> {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn step_is_a_number_or_a_share() {
        let step = |text| Step::from_text(text).map(Step::field);
        assert_eq!(step("1"), Ok(Surge::Count(1)));
        assert_eq!(Step::from_number(3).map(Step::field), Ok(Surge::Count(3)));
        assert_eq!(step("25%"), Ok(Surge::Percent(25)));
        for text in ["0", "0%", "101%", "-1", "many", ""] {
            assert!(step(text).is_err(), "{text}");
        }
    }

    #[test]
    fn step_time_is_a_time_or_manual() {
        let time = |text| StepTime::from_text(text).map(StepTime::field);
        assert_eq!(time("manual"), Ok(None));
        assert_eq!(time("30s"), Ok(Some(Duration::from_secs(30))));
        assert!(time("later").expect_err("no time").contains("\"manual\""));
    }

    #[test]
    fn watch_is_a_time_or_off() {
        let watch = |text| WatchTime::from_text(text).map(WatchTime::field);
        assert_eq!(watch("off"), Ok(Watch::Off));
        assert_eq!(watch("5min"), Ok(Watch::For(Duration::from_secs(300))));
        assert!(watch("on").expect_err("no time").contains("\"off\""));
    }

    #[test]
    fn ratio_is_a_percentage_with_four_places() {
        let ratio = |text| Ratio::from_text(text).map(Ratio::field);
        assert_eq!(
            [ratio("1%"), ratio("0.5%"), ratio("0.0001 %"), ratio("100%")].map(Result::ok),
            [Some(10_000), Some(5_000), Some(1), Some(1_000_000)]
        );
        for text in ["1", "100.0001%", "-1%", "0.00001%", "%", ".5%", "x%"] {
            assert!(ratio(text).is_err(), "{text}");
        }
    }

    #[test]
    fn factor_is_a_number_from_one_or_off() {
        let factor = |text| Factor::from_text(text).map(Factor::field);
        assert_eq!(
            [factor("2.0"), factor("off"), factor("1.0005")].map(Result::ok),
            [Some(Some(2000)), Some(None), Some(Some(1001))]
        );
        assert_eq!(Factor::from_number(3).map(Factor::field), Ok(Some(3000)));
        assert_eq!(Factor::from_fraction(1.5).map(Factor::field), Ok(Some(1500)));
        for text in ["0.9", "-2", "1001", "NaN", "inf", "", "twice"] {
            assert!(factor(text).is_err(), "{text}");
        }
        assert!(Factor::from_fraction(f64::NAN).is_err() && Factor::from_number(0).is_err());
    }
}
