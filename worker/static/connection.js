// The connection as it is shown, and the key that it may need.

import { logIn, logOut, whoAmI } from "./api.js";
import { byId, setText, showProblem } from "./dom.js";

/** The line at the top.  `kind`: "live", "caught-up", "connecting", "behind" or "lost". */
export function showConnection(kind, text, { reconnect = false, enterKey = false } = {}) {
  byId("connection").dataset.state = kind;
  setText(byId("connection-text"), text);
  byId("reconnect").hidden = !reconnect;
  byId("enter-key").hidden = !enterKey;
  // A countdown is not read out each second.
  setText(byId("connection-said"), text.replace(/ (in|for) \d.*/, ""));
}

/**
 * The dialog that asks for a key, and the button that logs out.  `entered()` is called when a key was good, `left()` when
 * it was given up: what it has opened is then to go, too.
 */
export class KeyDialog {
  constructor({ entered, left }) {
    this.entered = entered;
    this.dialog = byId("key");
    byId("key-form").onsubmit = (event) => {
      event.preventDefault();
      this.#enter();
    };
    byId("key-later").onclick = () => this.dialog.close();
    byId("enter-key").onclick = () => this.open();
    byId("log-out").onclick = async () => {
      byId("log-out").disabled = true;
      await logOut().catch(() => {});
      left();
    };
    this.refresh();
  }

  /** Ask for one. */
  open() {
    if (this.dialog.open) return;
    showProblem(byId("key-problem"), null);
    byId("log-out").hidden = true;
    this.dialog.showModal();
    byId("key-input").focus();
  }

  /** Show who is logged in. */
  async refresh() {
    try {
      this.#show(await whoAmI());
    } catch {
      // Somebody else says that the gateway can't be reached.
    }
  }

  async #enter() {
    const input = byId("key-input");
    const key = input.value.trim();
    input.value = "";
    byId("key-use").disabled = true;
    try {
      this.#show(await logIn(key));
    } catch (error) {
      showProblem(byId("key-problem"), error.status === 401 ? "The gateway does not know this key." : error.message);
      return;
    } finally {
      byId("key-use").disabled = false;
      input.focus();
    }
    this.dialog.close();
    this.entered();
  }

  #show({ logged_in: isLoggedIn, client, fingerprint }) {
    byId("log-out").hidden = !isLoggedIn;
    setText(byId("log-out"), `Log out ${client ?? fingerprint}`);
  }
}
