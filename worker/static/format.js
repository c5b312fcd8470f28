// Numbers, times and sums of money as people read them.  Pure; "–" stands for what is not known.

const NONE = "–";
const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const short = new Intl.NumberFormat("en", { notation: "compact", maximumSignificantDigits: 3 });
const clock = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit", second: "2-digit" });
const date = new Intl.DateTimeFormat("en-GB", { day: "numeric", month: "short" });
const full = new Intl.DateTimeFormat("en-GB", { dateStyle: "medium", timeStyle: "long" });

/** A count: whole up to 9,999, else "12.3K". */
export function count(value) {
  if (value == null) return NONE;
  return Math.abs(value) < 10_000 ? whole.format(value) : short.format(value);
}

/** A count, to its last digit. */
export function exact(value) {
  return value == null ? NONE : whole.format(value);
}

/** Tokens a second. */
export function rate(value) {
  if (value == null) return NONE;
  return value < 10 && value !== 0 ? value.toFixed(1) : count(value);
}

/** Seconds: "0.42 s", "12 s", "3 min 5 s", "2 h 5 min", "3 d 4 h". */
export function duration(seconds) {
  if (seconds == null) return NONE;
  if (seconds === 0) return "0 s";
  if (seconds < 0.001) return "<1 ms";
  if (seconds < 0.9995) return `${Math.round(seconds * 1000)} ms`;
  if (seconds < 9.95) return `${seconds.toFixed(1)} s`;
  return span(seconds);
}

/** The same in whole seconds, for what runs. */
export function span(seconds) {
  if (seconds == null) return NONE;
  const total = Math.max(0, Math.round(seconds));
  const parts = [
    [Math.floor(total / 86_400), "d"],
    [Math.floor(total / 3600) % 24, "h"],
    [Math.floor(total / 60) % 60, "min"],
    [total % 60, "s"],
  ];
  const first = parts.findIndex(([value]) => value > 0);
  if (first < 0) return "0 s";
  return parts
    .slice(first, first + 2)
    .filter(([value], at) => at === 0 || value > 0)
    .map(([value, unit]) => `${value} ${unit}`)
    .join(" ");
}

/** US dollars: cents, or two digits that say something. */
export function money(value) {
  if (value == null) return NONE;
  if (value === 0) return "$0";
  if (value >= 1000) return `$${whole.format(value)}`;
  if (value >= 0.995) return `$${value.toFixed(2)}`;
  if (value < 0.000001) return "<$0.000001";
  const digits = Math.max(2, 1 - Math.floor(Math.log10(value)));
  return `$${value.toFixed(Math.min(digits, 6))}`;
}

/** Bytes, in binary units. */
export function bytes(value) {
  if (value == null) return NONE;
  for (const [size, unit] of [[2 ** 30, "GiB"], [2 ** 20, "MiB"], [2 ** 10, "KiB"]]) {
    if (value >= size) return `${(value / size).toFixed(value / size < 10 ? 1 : 0)} ${unit}`;
  }
  return `${value} B`;
}

/** A share from 0 to 1, as per cent. */
export function percent(share) {
  if (share == null) return NONE;
  const value = share * 100;
  if (value > 0 && value < 0.05) return "<0.1 %";
  return `${value < 0.95 && value > 0 ? value.toFixed(1) : Math.round(value)} %`;
}

/** Epoch seconds: the time of day, and the date if it is another one. */
export function time(epoch, now = Date.now() / 1000) {
  if (epoch == null) return NONE;
  const moment = new Date(epoch * 1000);
  const today = moment.toDateString() === new Date(now * 1000).toDateString();
  return today ? clock.format(moment) : `${date.format(moment)}, ${clock.format(moment)}`;
}

/** Epoch seconds, with date and time zone. */
export function moment(epoch) {
  return epoch == null ? NONE : full.format(new Date(epoch * 1000));
}

/** For an axis that shows `range` seconds. */
export function tick(epoch, range) {
  const moment = new Date(epoch * 1000);
  return range > 2 * 86_400 ? date.format(moment) : clock.format(moment).slice(0, 5);
}

/** Whatever has no format of its own. */
export function plain(value) {
  return value == null || value === "" ? NONE : String(value);
}
