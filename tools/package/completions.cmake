# SPDX-License-Identifier: Apache-2.0
# Writes vtapctl.bash, .zsh and .fish, as `VTAPCTL completion SHELL` prints them, to the working
# directory; none for what it does not know.
foreach(shell bash zsh fish)
  execute_process(COMMAND "${VTAPCTL}" completion ${shell}
                  RESULT_VARIABLE code OUTPUT_VARIABLE text ERROR_QUIET)
  if(code EQUAL 0 AND NOT text STREQUAL "")
    file(WRITE "vtapctl.${shell}" "${text}")
  else()
    file(REMOVE "vtapctl.${shell}")
  endif()
endforeach()
