/* Whether the processor has AMX with bytes and the system lets this process use it, which is asked with every call. */
int ob_has_amx(void);
