//! Chooses points by their conditions: `NAME=VALUE`.

use super::{
    point::{NOT_STATED, Point},
    selection::Refused,
};
use std::{collections::BTreeSet, fmt, str::FromStr};

/// A condition that a point must meet. The name is that of a condition (`server delivery`), of a setting of any role (`delivery`), or a
/// role, whose value is its number of processes (`wsproxy=2`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    name: String,
    value: String,
}

impl FromStr for Choice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts = text.split_once('=').map(|(name, value)| (name.trim(), value.trim()));
        match parts {
            Some((name, value)) if !name.is_empty() && !value.is_empty() => {
                Ok(Self { name: name.to_owned(), value: value.to_owned() })
            }
            _ => Err("expected NAME=VALUE, for example delivery=log or wsproxy=2".to_owned()),
        }
    }
}

impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.name, self.value)
    }
}

impl Choice {
    /// Returns the values that a point has under the name. Empty if it states none.
    fn values(&self, point: &Point) -> BTreeSet<String> {
        let setting = format!(" {}", self.name);
        let conditions = point.conditions.iter();
        let named = conditions.filter(|(name, _)| **name == self.name || name.ends_with(&setting));
        let processes = point.roles.get(&self.name).map(|role| role.instances.to_string());
        named.map(|(_, value)| value.clone()).chain(processes).collect()
    }

    /// Returns why a point does not meet the condition, or `None` if it does.
    fn misses(&self, point: &Point) -> Option<String> {
        let mut values = self.values(point);
        if values.is_empty() {
            values.insert(NOT_STATED.to_owned());
        }
        let other = values.into_iter().find(|value| *value != self.value)?;
        Some(format!("its {} is {other}, not {}", self.name, self.value))
    }

    /// Checks that a point has a value under this name.
    fn check(&self, points: &[Point]) -> Result<(), Refused> {
        let values: BTreeSet<String> = points.iter().flat_map(|point| self.values(point)).collect();
        if values.is_empty() {
            let roles = points.iter().flat_map(|point| point.roles.keys());
            let names: BTreeSet<&String> =
                points.iter().flat_map(|point| point.conditions.keys()).chain(roles).collect();
            return Err(Refused::UnknownName { name: self.name.clone(), known: listed(names) });
        }
        if points.iter().all(|point| self.misses(point).is_some()) {
            return Err(Refused::NoneLeft { choice: self.to_string(), known: listed(values) });
        }
        Ok(())
    }
}

fn listed(words: impl IntoIterator<Item = impl fmt::Display>) -> String {
    words.into_iter().map(|word| word.to_string()).collect::<Vec<_>>().join(", ")
}

/// Marks the points that miss a condition as unusable.
///
/// # Errors
/// No point states a condition of that name, or none meets it.
pub fn choose(mut points: Vec<Point>, choices: &[Choice]) -> Result<Vec<Point>, Refused> {
    choices.iter().try_for_each(|choice| choice.check(&points))?;
    for point in points.iter_mut().filter(|point| point.unusable.is_none()) {
        point.unusable = choices.iter().find_map(|choice| choice.misses(point));
    }
    Ok(points)
}

#[cfg(test)]
mod tests {
    use super::{super::point::RoleUse, *};

    fn point(name: &str, server: &str, gateway: &str, gateways: u32) -> Point {
        let conditions = [("server delivery", server), ("wsproxy delivery", gateway)];
        Point {
            name: name.to_owned(),
            conditions: conditions.map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
            roles: [("wsproxy".to_owned(), RoleUse { instances: gateways, ..RoleUse::default() })].into(),
            ..Point::default()
        }
    }

    fn points() -> Vec<Point> {
        vec![point("a", "log", "log", 1), point("b", "pubsub", "pubsub", 2), point("c", "pubsub", "log", 2)]
    }

    fn chosen(choices: &[&str]) -> Result<Vec<String>, String> {
        let choices: Vec<Choice> = choices.iter().map(|text| text.parse().unwrap()).collect();
        let points = choose(points(), &choices).map_err(|error| error.to_string())?;
        Ok(points.into_iter().filter(|point| point.unusable.is_none()).map(|point| point.name).collect())
    }

    #[test]
    fn a_name_is_a_condition_a_setting_of_all_roles_or_a_role() {
        for (choice, expected) in [
            ("delivery=log", &["a"][..]),
            ("server delivery = pubsub", &["b", "c"]),
            ("wsproxy=2", &["b", "c"]),
        ] {
            assert_eq!(chosen(&[choice]).unwrap(), expected, "{choice}");
        }
        assert_eq!(chosen(&["wsproxy=2", "wsproxy delivery=log"]).unwrap(), ["c"]);
        let left = choose(points(), &["delivery=log".parse().unwrap()]).unwrap();
        assert_eq!(left[1].unusable.as_deref(), Some("its delivery is pubsub, not log"));
    }

    #[test]
    fn a_point_may_be_chosen_because_it_states_nothing() {
        let mut points = points();
        points[0].conditions.clear();
        let points = choose(points, &["delivery=not stated".parse().unwrap()]).unwrap();
        assert!(points[0].unusable.is_none() && points[1].unusable.is_some());
    }

    #[test]
    fn wrong_names_and_values_are_refused_with_those_that_exist() {
        let error = chosen(&["delivry=log"]).unwrap_err();
        assert!(
            error.contains("no point states delivry") && error.contains("server delivery, wsproxy"),
            "{error}"
        );
        let error = chosen(&["delivery=carrier"]).unwrap_err();
        assert!(error.contains("delivery=carrier") && error.contains("log, pubsub"), "{error}");
        for text in ["delivery", "=log", "delivery=", ""] {
            assert!(text.parse::<Choice>().is_err(), "{text}");
        }
    }
}
