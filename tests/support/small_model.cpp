#include "support/small_model.hpp"

template class rf::Model<small::Spec>;
template class rf::Trainer<small::Model>;
