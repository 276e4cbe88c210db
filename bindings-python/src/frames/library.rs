//! What a wait was for, by the functions of Python's standard library next to it.
//!
//! A condition is a lock that nobody holds, and what is made of conditions are queues and others: which, their functions tell.
//! What none of them is near is a lock.

/// So many functions tell what a wait is for.
const NEAR: usize = 8;

/// What a thread waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wait {
    Lock,
    Once,
    Condition,
    Channel,
    Semaphore,
    Barrier,
    Join,
}

/// Where the functions are that tell.
#[derive(Debug, Default)]
pub(super) struct Library {
    /// The folder of the standard library, as its code has it.
    folder: String,
    /// The lines of `threading` at which the lock of a condition is taken again.
    restoring: Vec<u32>,
}

/// Parts of the standard library.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Threading,
    Queue,
    Imports,
}

impl Library {
    /// By the file that `threading` is in, as its code has it, and the text of that, which may not be there.
    pub(super) fn of(file: &str, text: &str) -> Self {
        let folder = file.strip_suffix("threading.py").unwrap_or(file).to_string();
        Self { folder, restoring: lines_with(text, "._acquire_restore(") }
    }

    /// What the wait was for, by the name, the file and the line of each function, innermost first.
    pub(super) fn wait(&self, functions: impl Iterator<Item = (String, String, u32)>) -> Wait {
        let known = functions.map_while(|(name, file, line)| Some((self.part(&file)?, name, line)));
        self.by_functions(known.take(NEAR))
    }

    fn part(&self, file: &str) -> Option<Part> {
        match file.strip_prefix(&*self.folder) {
            Some("threading.py") => Some(Part::Threading),
            Some("queue.py") => Some(Part::Queue),
            _ => file.starts_with("<frozen importlib").then_some(Part::Imports),
        }
    }

    /// By the functions of the standard library next to the wait, innermost first.
    fn by_functions(&self, mut functions: impl Iterator<Item = (Part, String, u32)>) -> Wait {
        let Some((part, name, line)) = functions.next() else { return Wait::Lock };
        match (part, last(&name)) {
            (Part::Imports, _) => Wait::Once,
            (Part::Threading, "wait") if !self.restoring.contains(&line) => {
                functions.find_map(|(part, name, _)| whole(part, last(&name))).unwrap_or(Wait::Condition)
            }
            (Part::Threading, "join" | "_wait_for_tstate_lock" | "_shutdown") => Wait::Join,
            _ => Wait::Lock,
        }
    }
}

/// What is made of conditions.
fn whole(part: Part, name: &str) -> Option<Wait> {
    match (part, name) {
        (Part::Queue, _) => Some(Wait::Channel),
        (Part::Threading, "_wait" | "_enter") => Some(Wait::Barrier),
        (Part::Threading, "acquire") => Some(Wait::Semaphore),
        _ => None,
    }
}

/// Of a function that may have the names of its classes before its own.
fn last(name: &str) -> &str {
    name.rsplit('.').next().unwrap_or(name)
}

fn lines_with(text: &str, part: &str) -> Vec<u32> {
    (1..).zip(text.lines()).filter(|(_, line)| line.contains(part)).map(|(number, _)| number).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_are_told_by_the_functions_next_to_them() {
        let text = "\n".repeat(363) + "            self._acquire_restore(state)\n";
        let library = Library::of("/lib/threading.py", &text);
        let of = |functions: &[(&str, &str, u32)]| {
            let functions = functions.iter();
            library.wait(functions.map(|(file, name, line)| (name.to_string(), file.to_string(), *line)))
        };
        const THREADING: &str = "/lib/threading.py";
        let condition = (THREADING, "Condition.wait", 355);
        assert_eq!(of(&[("/lib/x.py", "wait", 1), condition]), Wait::Lock, "a program's own");
        assert_eq!(of(&[]), Wait::Lock);
        assert_eq!(of(&[condition, ("/shop.py", "serve", 1)]), Wait::Condition);
        assert_eq!(of(&[condition, (THREADING, "Event.wait", 629)]), Wait::Condition);
        assert_eq!(of(&[(THREADING, "Condition.wait", 364)]), Wait::Lock, "its lock, after it");
        assert_eq!(of(&[(THREADING, "__enter__", 299), ("/lib/queue.py", "get", 168)]), Wait::Lock);
        assert_eq!(of(&[condition, ("/lib/queue.py", "Queue.get", 171)]), Wait::Channel);
        // Before 3.11 functions have their last names only.
        let all = [(THREADING, "wait", 312), (THREADING, "wait_for", 347), (THREADING, "_wait", 664)];
        assert_eq!(of(&all), Wait::Barrier);
        assert_eq!(of(&[condition, (THREADING, "acquire", 450)]), Wait::Semaphore);
        // Behind a function of the program's, what stands there is not what is waited for.
        assert_eq!(of(&[condition, ("/shop.py", "x", 1), ("/lib/queue.py", "get", 1)]), Wait::Condition);
        assert_eq!(of(&[(THREADING, "Thread.join", 1094)]), Wait::Join);
        assert_eq!(of(&[("<frozen importlib._bootstrap>", "acquire", 99)]), Wait::Once);
    }
}
