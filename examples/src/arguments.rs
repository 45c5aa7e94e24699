//! The command line of the apps.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::targets::Targets;

/// What the command line takes.
pub const USAGE: &str = "\
usage: APP --listen ADDRESS [--mesh URL] [--at SERVICE=URL[,URL]...]...
  APP            users, products, orders, payments or storefront
  --listen       IP:PORT to serve on; port 0 takes any free one
  --mesh         http://IP:PORT that takes calls to every service
  --at           SERVICE=http://IP:PORT of one service, or several with commas between, which share its
                 calls; wins over --mesh; may be repeated
  --print-every  seconds between two lines of counts (default 0.2); orders and storefront
  --deadline     seconds that a call may take, watches aside (default: for ever); orders and storefront
payments only:
  --ledger       a folder that all replicas of payments share, so that none charges a key that another
                 one has charged (default: each remembers its own)
storefront only:
  --shoppers N   how many shop at once (default 20)
  --rate R       calls that all of them start per second (default 200)
or: charge [--mesh URL] [--at payments=URL]
  calls shop.PaymentService/Charge once, prints {\"code\":\"...\"} and exits";

/// More shoppers than this are refused, because each may hold several streams.
pub const SHOPPERS_MAX: usize = 10_000;

/// More calls per second than this are refused; the timer counts in milliseconds.
pub const RATE_MAX: f64 = 100_000.0;

/// One of the store's processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum App {
    /// `shop.UserService`.
    Users,
    /// `shop.ProductService`.
    Products,
    /// `shop.OrderService`.
    Orders,
    /// `shop.PaymentService`.
    Payments,
    /// `shop.StorefrontService` and the shoppers.
    Storefront,
    /// No service: one call to `Charge`, to see whether the caller may.
    Charge,
}

impl App {
    const ALL: [Self; 6] =
        [Self::Users, Self::Products, Self::Orders, Self::Payments, Self::Storefront, Self::Charge];

    /// The name on the command line, which is the short name of the service.
    pub fn name(self) -> &'static str {
        match self {
            Self::Users => "users",
            Self::Products => "products",
            Self::Orders => "orders",
            Self::Payments => "payments",
            Self::Storefront => "storefront",
            Self::Charge => "charge",
        }
    }
}

/// How often the apps that count their calls print the counts, unless they are told otherwise: often enough
/// that a reader who looks once a second sees hardly fewer calls than there were.
pub const PRINT_PERIOD: Duration = Duration::from_millis(200);

/// Counts may be printed as seldom as once a day.
const PRINT_EVERY_SECONDS: std::ops::RangeInclusive<f64> = 0.01..=86_400.0;

/// Deadlines may be as long as a day.
const DEADLINE_SECONDS: std::ops::RangeInclusive<f64> = 0.001..=86_400.0;

/// A parsed command line.
#[derive(Clone, Debug)]
pub struct Arguments {
    /// Which app to run.
    pub app: App,
    /// Where it serves.
    pub listen: SocketAddr,
    /// Where the others are.
    pub targets: Targets,
    /// How many shop at once; the storefront only.
    pub shoppers: usize,
    /// Calls started per second by all shoppers together; the storefront only.
    pub rate: f64,
    /// How often the counts are printed, by those that count.
    pub print_every: Duration,
    /// How long a call may take; `None`: for ever.
    pub deadline: Option<Duration>,
    /// Where the replicas of payments keep what was charged; `None`: each for itself, in memory.
    pub ledger: Option<PathBuf>,
}

impl Arguments {
    /// Parses what stands after the program's name.
    ///
    /// # Errors
    /// One line that names the argument at fault and what would be right.
    pub fn parse(mut args: impl Iterator<Item = String>) -> Result<Self, String> {
        let name = args.next().ok_or("which app? none was named")?;
        let app = App::ALL.into_iter().find(|app| app.name() == name);
        let app = app.ok_or_else(|| format!("`{name}` is no app of the store"))?;
        let listen = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut parsed = Self {
            app,
            listen,
            targets: Targets::default(),
            shoppers: 20,
            rate: 200.0,
            print_every: PRINT_PERIOD,
            deadline: None,
            ledger: None,
        };
        while let Some(flag) = args.next() {
            let value = args.next().ok_or_else(|| format!("{flag} needs a value"))?;
            parsed.set(&flag, &value)?;
        }
        Ok(parsed)
    }

    fn set(&mut self, flag: &str, value: &str) -> Result<(), String> {
        match flag {
            "--listen" => {
                self.listen = value.parse().map_err(|_| format!("--listen `{value}` is no IP:PORT"))?;
            }
            "--mesh" => self.targets.mesh = Some(value.to_owned()),
            "--at" => {
                let (service, url) =
                    value.split_once('=').ok_or_else(|| format!("--at `{value}` is no SERVICE=URL"))?;
                self.targets.direct.insert(service.to_owned(), url.to_owned());
            }
            "--shoppers" => {
                let shoppers = value.parse().ok().filter(|n| (1..=SHOPPERS_MAX).contains(n));
                self.shoppers =
                    shoppers.ok_or_else(|| format!("--shoppers `{value}` is not 1 to {SHOPPERS_MAX}"))?;
            }
            "--rate" => {
                let rate = value.parse().ok().filter(|rate| *rate > 0.0 && *rate <= RATE_MAX);
                self.rate =
                    rate.ok_or_else(|| format!("--rate `{value}` is not above 0 and up to {RATE_MAX}"))?;
            }
            "--print-every" => self.print_every = seconds(flag, value, PRINT_EVERY_SECONDS)?,
            "--deadline" => self.deadline = Some(seconds(flag, value, DEADLINE_SECONDS)?),
            "--ledger" => self.ledger = Some(PathBuf::from(value)),
            _ => return Err(format!("unknown argument `{flag}`")),
        }
        Ok(())
    }
}

fn seconds(flag: &str, value: &str, within: std::ops::RangeInclusive<f64>) -> Result<Duration, String> {
    let seconds = value.parse().ok().filter(|seconds| within.contains(seconds));
    let seconds = seconds
        .ok_or_else(|| format!("{flag} `{value}` is not {} to {} seconds", within.start(), within.end()))?;
    Ok(Duration::from_secs_f64(seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Arguments, String> {
        Arguments::parse(line.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn every_app_is_known_by_its_name() {
        for app in App::ALL {
            assert_eq!(parse(app.name()).expect("an app").app, app);
        }
    }

    #[test]
    fn a_fault_names_the_argument_and_what_it_was() {
        for (line, fault) in [
            ("", "which app? none was named"),
            ("shoes", "`shoes` is no app of the store"),
            ("users --listen here", "--listen `here` is no IP:PORT"),
            ("users --listen", "--listen needs a value"),
            ("users --port 1", "unknown argument `--port`"),
            ("orders --at payments", "--at `payments` is no SERVICE=URL"),
            ("storefront --shoppers 0", "--shoppers `0` is not 1 to 10000"),
            ("orders --print-every 0", "--print-every `0` is not 0.01 to 86400 seconds"),
            ("storefront --deadline 0", "--deadline `0` is not 0.001 to 86400 seconds"),
            ("storefront --rate NaN", "--rate `NaN` is not above 0 and up to 100000"),
        ] {
            assert_eq!(parse(line).expect_err(line), fault);
        }
    }
}
