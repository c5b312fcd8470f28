// The connection as it is shown, and the key that it may need.

import { key, setKey } from "./api.js";
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
 * The dialog that asks for a key.  `entered()` is called when there is one, `forgotten()` when it was taken away: what it
 * has opened is then to go, too.
 */
export class KeyDialog {
  constructor({ entered, forgotten }) {
    this.dialog = byId("key");
    byId("key-form").onsubmit = (event) => {
      event.preventDefault();
      setKey(byId("key-input").value.trim());
      byId("key-input").value = "";
      this.dialog.close();
      this.#show();
      entered();
    };
    byId("key-later").onclick = () => this.dialog.close();
    byId("enter-key").onclick = () => this.open();
    byId("forget-key").onclick = () => {
      setKey(null);
      forgotten();
    };
    this.#show();
  }

  /** Ask for one; the one that there was has been refused. */
  open() {
    if (this.dialog.open) return;
    showProblem(byId("key-problem"), key() ? "The gateway does not know this key." : null);
    this.dialog.showModal();
    byId("key-input").focus();
  }

  #show() {
    byId("forget-key").hidden = !key();
  }
}
