"""The networks that evsim brings, beside independent links."""
