//! What goes wrong where a test says so.

use std::time::Duration;

use super::answer::Answer;
use super::calls::Call;
use super::world::State;

/// For calls to a host whose path begins so.
pub struct Fault {
    pub host: String,
    pub path: String,
    pub times: usize,
    pub what: What,
}

/// What happens.
pub enum What {
    /// It is answered with this status.
    Status(u16),
    /// It is answered later.
    Late(Duration),
    /// It is answered with this.
    Refused(Answer),
    /// What it asks is done, and it is answered with this status.
    Lost(u16),
}

impl Fault {
    fn means(&self, call: &Call) -> bool {
        self.times > 0 && self.host == call.host && call.path.starts_with(&self.path)
    }
}

impl State {
    /// What stands in the place of the right answer, once that is made.
    pub fn loss(&mut self, call: &Call) -> Option<Answer> {
        self.faults.iter_mut().find_map(|fault| match fault.what {
            What::Lost(status) if fault.means(call) => {
                fault.times -= 1;
                Some(Answer::api(status, "as the test says"))
            }
            _ => None,
        })
    }

    /// How long to wait before the answer, and the answer if it is not to be the right one.
    pub fn fault(&mut self, call: &Call) -> (Duration, Option<Answer>) {
        let mut pause = Duration::ZERO;
        for fault in &mut self.faults {
            if !fault.means(call) || matches!(fault.what, What::Lost(_)) {
                continue;
            }
            fault.times -= 1;
            match &fault.what {
                What::Lost(_) => {}
                What::Late(time) => pause += *time,
                What::Refused(answer) => return (pause, Some(answer.clone())),
                What::Status(status) => {
                    let status = *status;
                    let answer = match call.host.as_str() {
                        super::oauth::HOST | super::sts::HOST => {
                            let error = if status < 500 {
                                "invalid_request"
                            } else {
                                "internal_failure"
                            };
                            let mut answer = Answer::oauth(status, error, "as the test says");
                            answer.wrong = None;
                            answer
                        }
                        super::metadata::HOST => Answer::page(status, "as the test says")
                            .header("metadata-flavor", "Google"),
                        _ => Answer::api(status, "as the test says"),
                    };
                    return (pause, Some(answer));
                }
            }
        }
        (pause, None)
    }
}
