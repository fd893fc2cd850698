//! How the shares of one claim are divided under caps: a lane that turns out to be empty leaves its part of a
//! cap to the others, within the same commit. Pure.

use super::caps::{Cap, within};
use super::dispatch::{Leased, Share};
use crate::model::{Basin, Lane};

/// What a claim came to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Claimed {
    pub leased: Vec<Leased>,
    /// Lanes of which all ready runs were taken; what a cap held up is not among them.
    pub emptied: Vec<(Basin, Lane)>,
}

/// A claim on its way. Each round asks for what the caps still leave; a lane that gave less than it was asked
/// for is empty and not asked again, so that there are at most as many rounds as lanes, and one more.
pub(super) struct Taking<'a> {
    caps: &'a [Cap],
    under_way: Vec<i64>,
    open: Vec<Share>,
    claimed: Claimed,
}

impl<'a> Taking<'a> {
    pub(super) fn new(shares: &[Share], caps: &'a [Cap], under_way: Vec<i64>) -> Taking<'a> {
        let open = shares.iter().filter(|share| share.runs > 0).cloned().collect();
        Taking { caps, under_way, open, claimed: Claimed::default() }
    }

    /// What to take next; nothing when the claim is done.
    pub(super) fn ask(&self) -> Vec<Share> {
        within(&self.open, self.caps, &self.under_way)
    }

    pub(super) fn took(&mut self, asked: &[Share], leased: Vec<Leased>) {
        for share in asked {
            let got = leased.iter().filter(|run| run.basin == share.basin && run.lane == share.lane).count() as i64;
            for (cap, count) in self.caps.iter().zip(&mut self.under_way).filter(|(cap, _)| cap.of.covers(share)) {
                debug_assert!(*count + got <= cap.max, "more was taken than was asked for");
                *count += got;
            }
            let is_it = |open: &Share| open.basin == share.basin && open.lane == share.lane;
            if got < share.runs {
                self.open.retain(|open| !is_it(open));
                self.claimed.emptied.push((share.basin.clone(), share.lane.clone()));
            } else if let Some(open) = self.open.iter_mut().find(|open| is_it(open)) {
                open.runs -= got;
            }
        }
        self.open.retain(|open| open.runs > 0);
        self.claimed.leased.extend(leased);
    }

    pub(super) fn done(self) -> Claimed {
        self.claimed
    }
}

/// Takes runs until the caps leave none, or the lanes have none.
macro_rules! claim_under {
    ($tx:ident, $taking:ident, $claim:path, $holder:ident, $now:ident) => {{
        let mut taking = $taking;
        loop {
            let asked = taking.ask();
            if asked.is_empty() {
                break taking.done();
            }
            let leased = $claim(&mut $tx, &asked, $holder, $now).await?;
            taking.took(&asked, leased);
        }
    }};
}

pub(super) use claim_under;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Epoch, RunId, Timestamp};
    use crate::store::Capped;
    use std::collections::BTreeMap;

    fn share(env: &str, runs: i64) -> Share {
        Share::new(Basin::own(env), Lane::new("q", ""), runs)
    }

    fn leased(share: &Share, number: i64) -> Leased {
        Leased {
            run: RunId::from_text(format!("{}-{number}", share.basin.env())),
            env: share.basin.env().to_owned(),
            basin: share.basin.clone(),
            lane: share.lane.clone(),
            task: "t".to_owned(),
            epoch: Epoch::from_number(1),
            attempt: 1,
            max_attempts: 1,
            max_duration_ms: 0,
            since: Timestamp::from_millis(0),
            rank: number,
        }
    }

    /// Carries a claim out over lanes that hold so many runs; returns what each gave, and which were empty.
    fn carry_out(
        shares: &[Share],
        max: i64,
        under_way: i64,
        holds: &[(&str, i64)],
    ) -> (BTreeMap<String, i64>, Vec<String>) {
        let caps = [Cap { of: Capped::All, max }];
        let mut stock: BTreeMap<String, i64> = holds.iter().map(|(env, runs)| ((*env).to_owned(), *runs)).collect();
        let mut gave = BTreeMap::new();
        let mut taking = Taking::new(shares, &caps, vec![under_way]);
        for round in 0.. {
            let asked = taking.ask();
            if asked.is_empty() {
                break;
            }
            assert!(round <= shares.len(), "it goes on for ever");
            let mut given = Vec::new();
            for share in &asked {
                let stock = stock.entry(share.basin.env().to_owned()).or_default();
                let count = share.runs.min(*stock);
                *stock -= count;
                *gave.entry(share.basin.env().to_owned()).or_default() += count;
                given.extend((0..count).map(|number| leased(share, number)));
            }
            taking.took(&asked, given);
        }
        let emptied = taking.done().emptied.into_iter().map(|(basin, _)| basin.env().to_owned()).collect();
        (gave, emptied)
    }

    #[test]
    fn an_empty_lane_leaves_its_part_of_a_cap_to_the_others() {
        let shares = [share("a/x", 100), share("b/x", 100), share("c/x", 100)];
        let (gave, emptied) = carry_out(&shares, 8, 0, &[("a/x", 0), ("b/x", 3), ("c/x", 50)]);
        assert_eq!((gave["a/x"], gave["b/x"], gave["c/x"]), (0, 3, 5));
        assert_eq!(emptied, ["a/x", "b/x"], "what the cap held up is not empty");
    }

    #[test]
    fn nothing_is_taken_past_a_cap_or_beyond_a_share() {
        let (gave, emptied) = carry_out(&[share("a/x", 2), share("b/x", 9)], 6, 1, &[("a/x", 9), ("b/x", 9)]);
        assert_eq!((gave["a/x"], gave["b/x"], emptied.len()), (2, 3, 0));
        let (gave, emptied) = carry_out(&[share("a/x", 2)], 6, 9, &[("a/x", 9)]);
        assert!(gave.is_empty() && emptied.is_empty());
        let (gave, _) = carry_out(&[share("a/x", -2), share("b/x", 1)], 6, 0, &[("b/x", 9)]);
        assert_eq!(gave["b/x"], 1);
    }
}
