// What the theme leaves to a page.
"use strict";

// The search shows what stands around a word only where a server has the pages: a browser reads no other file from a folder.
DOCUMENTATION_OPTIONS.SHOW_SEARCH_SUMMARY = location.protocol !== "file:";

// A list of contents that covers a phone's page goes away when one of them is chosen.
document.addEventListener("click", (event) => { if (event.target.closest("dialog a")) event.target.closest("dialog").close(); });
