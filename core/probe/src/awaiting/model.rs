//! The protocol of one cell, step by step, in every order in which threads can take their steps.
//!
//! Two threads claim the same cell one after the other, write, begin their wait and end it, twice; ours reads meanwhile,
//! and forgets what goes on or does not. Each step is one operation on memory that others see, as in `cells.rs`; what the
//! orderings there add is that a step which sees another's state sees what was written before. Every state that can be
//! reached is looked at once.

use std::collections::HashSet;
use std::vec::Vec;

/// The protocol as it is, or with one thing left out: the model has to notice that.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Protocol {
    Whole,
    /// A cell's uses have no number: a late end ends the next one.
    WithoutTurns,
    /// A cell is given back before its state is hidden.
    GivenBackFirst,
    /// Our thread forgets without looking whether the wait is just being ended.
    ForgetsBlindly,
    /// The end is told before it is written.
    EndsBeforeItsTime,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Phase {
    Hidden,
    Open,
    Ending,
    Ended,
}
use Phase::{Ended, Ending, Hidden, Open};

/// The memory of the cell. A thread writes its own number into both words and as its time.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Memory {
    taken: bool,
    state: (u8, Phase),
    words: [u8; 2],
    end: u8,
}

/// A thread of the application: its next step, and the use of the cell that it has begun.
#[derive(Clone, PartialEq, Eq, Hash, Default)]
struct Poller {
    step: u8,
    turn: u8,
}

/// Our thread: its next step, what it has seen, and how many rounds it has left.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Reader {
    step: u8,
    seen: (u8, Phase),
    word: u8,
    rounds: u8,
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct World {
    memory: Memory,
    pollers: [Poller; 2],
    reader: Reader,
    /// For each poller, how often its wait was told as ended, and whether it was forgotten.
    told: [u8; 2],
    forgotten: [bool; 2],
}

/// The steps of a poller after which it has nothing more to do.
const DONE: u8 = 10;
const ROUNDS: u8 = 4;

impl World {
    fn new() -> Self {
        Self {
            memory: Memory { taken: false, state: (1, Hidden), words: [0; 2], end: 0 },
            pollers: Default::default(),
            reader: Reader { step: 0, seen: (0, Hidden), word: 0, rounds: ROUNDS },
            told: [0; 2],
            forgotten: [false; 2],
        }
    }

    /// Every world that one step of somebody leads to, or what is wrong with this one.
    fn next(&self, protocol: Protocol) -> Result<Vec<World>, &'static str> {
        let mut next = Vec::new();
        for which in 0..2 {
            next.extend(self.poller_steps(which, protocol)?);
        }
        next.extend(self.reader_steps(protocol)?);
        Ok(next)
    }

    fn poller_steps(&self, which: usize, protocol: Protocol) -> Result<Option<World>, &'static str> {
        let mut world = self.clone();
        let (memory, poller) = (&mut world.memory, &mut world.pollers[which]);
        let own = which as u8 + 1;
        let turn_of = |state: (u8, Phase)| if protocol == Protocol::WithoutTurns { 1 } else { state.0 };
        match poller.step {
            DONE => return Ok(None),
            0 if memory.taken => return Ok(None),
            0 if memory.state.1 != Hidden => return Err("a cell is free that shows a wait"),
            0 => memory.taken = true,
            1 | 2 => memory.words[usize::from(poller.step) - 1] = own,
            // Publishes.
            3 => {
                poller.turn = turn_of(memory.state);
                memory.state = (poller.turn, Open);
            }
            // Ends it, and once more: copies of a wait are the same wait.
            4 | 7 if memory.state == (poller.turn, Open) => {
                let early = protocol == Protocol::EndsBeforeItsTime;
                memory.state = (poller.turn, if early { Ended } else { Ending });
            }
            4 | 7 => poller.step += 2,
            5 | 8 => memory.end = own,
            6 | 9 => memory.state = (poller.turn, Ended),
            _ => {}
        }
        poller.step += 1;
        Ok(Some(world))
    }

    fn reader_steps(&self, protocol: Protocol) -> Result<Vec<World>, &'static str> {
        let mut world = self.clone();
        let (memory, reader) = (&mut world.memory, &mut world.reader);
        let next_turn = (reader.seen.0 + 1, Hidden);
        let given_back_first = protocol == Protocol::GivenBackFirst;
        match reader.step {
            _ if reader.rounds == 0 => return Ok(Vec::new()),
            0 if !memory.taken => reader.skip(),
            0 => reader.seen = memory.state,
            1 if reader.seen.1 == Hidden => reader.skip(),
            1 => reader.word = memory.words[0],
            2 => {
                if memory.words[1] != reader.word {
                    return Err("words of two waits");
                }
                let whose = usize::from(reader.word) - 1;
                if reader.seen.1 == Ended {
                    world.told[whose] += 1;
                    if memory.end != reader.word {
                        return Err("an end of another wait, or none yet");
                    }
                    if world.told[whose] > 1 || self.forgotten[whose] {
                        return Err("told twice, or though it was forgotten");
                    }
                } else if reader.seen.1 == Open {
                    // It goes on; or it is forgotten, by a comparison of the state.
                    let mut goes_on = world.clone();
                    goes_on.reader.skip();
                    let unchanged = world.memory.state == world.reader.seen;
                    if unchanged || protocol == Protocol::ForgetsBlindly {
                        world.memory.state = next_turn;
                        world.forgotten[whose] = true;
                        world.reader.step = 4;
                    } else {
                        world.reader.skip();
                    }
                    return Ok(Vec::from([goes_on, world]));
                } else {
                    reader.skip();
                    return Ok(Vec::from([world]));
                }
            }
            3 if given_back_first => memory.taken = false,
            3 => memory.state = next_turn,
            _ if given_back_first && self.memory.state == reader.seen => memory.state = next_turn,
            _ => memory.taken = false,
        }
        if reader.step >= 4 {
            reader.skip()
        } else if reader.seen.1 != Hidden || reader.step > 0 {
            reader.step += 1
        }
        Ok(Vec::from([world]))
    }

    /// Where nobody has anything more to do: every wait was told, forgotten, or is there to be told.
    fn check_end(&self) -> Result<(), &'static str> {
        for which in 0..2 {
            let waits = self.memory.taken && self.memory.words[0] == which as u8 + 1;
            let begun = self.pollers[which].step == DONE;
            if begun && self.told[which] == 0 && !self.forgotten[which] && !waits {
                return Err("a wait that nobody has told");
            }
        }
        Ok(())
    }
}

impl Reader {
    /// The round is over.
    fn skip(&mut self) {
        *self = Reader { step: 0, seen: (0, Hidden), word: 0, rounds: self.rounds - 1 };
    }
}

/// Looks at every world that can come of the first one; how many there are, or the first thing that is wrong.
fn explore(protocol: Protocol) -> Result<usize, &'static str> {
    let mut seen = HashSet::from([World::new()]);
    let mut left = Vec::from([World::new()]);
    while let Some(world) = left.pop() {
        let next = world.next(protocol)?;
        if next.is_empty() {
            world.check_end()?;
        }
        left.extend(next.into_iter().filter(|world| seen.insert(world.clone())));
    }
    Ok(seen.len())
}

#[test]
fn in_no_order_of_steps_is_a_wait_told_wrongly() {
    let worlds = explore(Protocol::Whole).unwrap();
    assert!(worlds > 1_000, "{worlds}");
}

#[test]
fn the_model_notices_what_is_left_out() {
    use Protocol::{EndsBeforeItsTime, ForgetsBlindly, GivenBackFirst, WithoutTurns};
    for protocol in [WithoutTurns, GivenBackFirst, ForgetsBlindly, EndsBeforeItsTime] {
        assert!(explore(protocol).is_err());
    }
}
